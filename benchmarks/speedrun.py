"""The time to 80 % with 250 labels, at 64 px on a CPU: a record to race for. Prints one JSON line.

    python -m benchmarks.speedrun --data cats_vs_dogs.zip --epochs 80
    OMP_NUM_THREADS=1 python -m benchmarks.speedrun --data cats_vs_dogs.zip --lr 0.08 --seed 1

The rules:

- Pretraining starts from random weights, and learns from no other photos than those of --data.
- 5,000 photos are held out, and nothing learns from them. The accuracy is that over all of them.
- 250 labels, those of split seed 0. The head is linear, on the frozen encoder's combined features.
- The clock starts with packed photos. It runs through both scripts, the test included.
- The record is the fewest minutes that end at 80 % or more, alone on the machine. Nothing is chosen
  by the accuracy on the photos held out, and a stopped run does not count.

Takes the flags of train_byol.py, over those of configs/cats_vs_dogs_64.toml (or of --config).
Packing, if the photos are not packed yet, is timed apart.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.common import ROOT, versions
from byol.command_line import command, parse
from byol.config import LABELS, PretrainConfig
from byol.errors import UserError, printable
from byol.hardware.device import describe, set_up
from byol.progress import silent
from byol.run.about import describe_machine
from data import open_photos

RECIPE = ROOT / "configs" / "cats_vs_dogs_64.toml"
GOAL = 0.80
FIXED = {"init": "random", "split_seed": 0}  # by the rules
OWN = {"run_dir", "out", "resume"}  # flags that this script gives, or that no race can have


@command
def main(argv: list[str] | None = None) -> None:
    # ---- what is raced
    options, flags = parse_own(argv)
    rules = ["--config", options.config, "--labels", options.labels, "--holdout", options.holdout]
    config, given = parse(PretrainConfig, [*flags, *rules], __doc__)
    check_rules(config, given)
    runs = Path(options.runs)
    run, encoder, classifier = runs / "byol", runs / "byol.pt", runs / "classifier"
    if (run.exists() or encoder.exists()) and not config.overwrite:
        raise UserError(f"{printable(str(runs))} holds another race: give --overwrite to replace "
                        "it, or another folder to --runs")  # fmt: skip
    device, amp = set_up(config.device, config.amp)
    load = os.getloadavg()[0]

    # ---- packing, apart; then the race
    began = time.perf_counter()
    open_photos(**config.reading, progress=not silent())
    packing = time.perf_counter() - began
    pretraining = time_script("train_byol.py", *flags, *rules, "--run-dir", run, "--out", encoder)
    classifying = time_script(  # the photos and their split are those of the encoder
        "train_classifier.py", "--config", options.config, "--init", encoder, "--freeze",
        "--representation", "combined", "--folds", "0", "--device", config.device,
        "--amp", config.amp, "--run-dir", classifier, *["--overwrite"] * config.overwrite,
    )  # fmt: skip

    # ---- the result
    summary = json.loads((classifier / "summary.json").read_text(encoding="utf-8"))
    result = {
        "test_accuracy": summary["test_accuracy"],
        "reached_80": summary["test_accuracy"] >= GOAL,
        "minutes": round((pretraining + classifying) / 60, 2),
        "minutes_pretraining": round(pretraining / 60, 2),
        "minutes_classifier": round(classifying / 60, 2),
        "seconds_packing": round(packing, 1),
        "epochs": config.epochs,
        "seed": config.seed,
        "image_size": config.image_size,
        "labels": summary["labels"],
        "tested_on": f"{summary['test_images']:,} images ({summary['tested_on']})",
        "flags": flags,
        "threads": torch.get_num_threads(),
        "device": describe(device, amp),
        **describe_machine(),
        "load_before": round(load, 2),  # processes that compute already, in the last minute
        **versions(),
    }
    print(json.dumps(result))


def parse_own(argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Part the options of this benchmark from the flags of train_byol.py."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", default=str(RECIPE))
    parser.add_argument("--labels", default=str(LABELS))
    parser.add_argument("--holdout", default="5000")
    parser.add_argument("--runs", default="runs/speedrun")
    return parser.parse_known_args(argv)


def check_rules(config: PretrainConfig, given: set[str]) -> None:
    """Raise `UserError` for a setting that the rules forbid."""
    broken = [key for key, value in FIXED.items() if getattr(config, key) != value]
    for key in [*broken, *sorted(given & OWN)]:
        flag = key.replace("_", "-")
        raise UserError(f"--{flag} is not free in this race: leave it out (see the rules in "
                        "benchmarks/speedrun.py)")  # fmt: skip


def time_script(name: str, *flags: str | Path) -> float:
    """Run a script from its start to its end, in a process of its own: seconds.

    What it prints goes to stderr. If it fails, this process ends with its exit code.
    """
    began = time.perf_counter()
    script = [sys.executable, str(ROOT / name), *map(str, flags)]
    try:
        done = subprocess.run(script, stdout=2)
    except KeyboardInterrupt:
        told = "a race that was stopped does not count; --overwrite begins another"
        raise KeyboardInterrupt(told) from None
    if done.returncode:
        sys.exit(done.returncode)
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())
