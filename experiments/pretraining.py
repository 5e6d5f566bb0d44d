"""Search for a recipe: pretrain with each of a list of settings, and judge each by few labels.

    python -m experiments.pretraining experiments/recipes_64.toml --data cats_vs_dogs.zip

The list is TOML: `[all]` holds settings of train_byol.py that every run shares, `[[run]]` has a
name and what differs. What neither says is in base.toml, which no default of the project changes.
Each run and seed adds rows to results/experiments.csv, one for each size it is judged at and each
representation. What has its rows is skipped, and a run that was stopped goes on from its
checkpoint. So the same command can be stopped and given again at any time.

Judges by cross-validation on labelled images alone: for each of five draws of the labels, five
times a linear head learns on four fifths and is tested on the rest. No hidden label is read.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import io
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import ROOT, versions
from byol.command_line import command, load_toml
from byol.config import LABELS, PretrainConfig, modern_settings
from byol.encoder import Encoder
from byol.errors import UserError
from byol.evaluation.features import FeatureExtractor, Standardise, accuracy
from byol.evaluation.linear_and_knn import fit_linear
from byol.files import write_atomically
from byol.hardware.device import keep_freed_memory, pick_amp, pick_device
from byol.hardware.step import prepare
from byol.run import checkpoint
from byol.run.folder import holds_a_run
from byol.run.metrics import read_jsonl
from data import make_split, open_photos

BASE = ROOT / "experiments" / "base.toml"
DRAWS = range(5)  # label seeds
FOLDS = 5


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("list", help="TOML file of settings")
    parser.add_argument("--data", required=True, help="as for train_byol.py, with classes")
    parser.add_argument("--out", default=str(ROOT / "results" / "experiments.csv"))
    parser.add_argument("--runs", default="runs/experiments", help="folder of the run folders")
    parser.add_argument("--only", nargs="+", help="names of the runs to do")
    args = parser.parse_args(argv)

    keep_freed_memory()
    table = Path(args.out)
    for run in read_list(Path(args.list), ("name", "seeds", "judged_at")):
        if args.only and run["name"] not in args.only:
            continue
        for seed in run["seeds"]:
            name = f"{run['name']}-seed{seed}"
            if has_rows(table, run["settings"], run=name):
                continue
            print(f"---- {name}", flush=True)
            row = {
                "date": datetime.date.today().isoformat(),
                "commit": versions()["commit"],  # if the run was stopped, of its last process
                "run": name,
                "settings": json.dumps(run["settings"]),
                **pretrain(run["settings"], seed, args.data, Path(args.runs) / name),
            }
            config, encoder = read_encoder(Path(args.runs) / name / "byol.pt")
            results = judge(encoder, config, run["judged_at"])
            for result in results:
                print(f"{name} at {result['judged_at']} px, {result['representation']}: "
                      f"{result['accuracy']} %", flush=True)  # fmt: skip
            append(table, [row | result for result in results])


def read_list(path: Path, keys: Sequence[str]) -> list[dict]:
    """Read the runs of a list: what each has under `keys`, and the rest as its settings."""
    content = load_toml(path)
    shared, runs = content.get("all", {}), []
    for run in content.get("run", []):
        settings = shared | run
        for key in keys:
            if key not in settings:
                raise UserError(f"{path}: a [[run]] lacks {key}; give it there or in [all]")
        runs.append({key: settings.pop(key) for key in keys})
        runs[-1]["settings"] = settings
    return runs


def run_and_pass_signals_on(command: list[str]) -> int:
    """Run `command`, which saves at SIGINT and SIGTERM, and wait for it: its exit code.

    A terminal and `timeout` signal all processes of a group. `command` is not of ours, since a
    second signal would stop it at once.
    """
    process = subprocess.Popen(command, start_new_session=True)
    signals = (signal.SIGINT, signal.SIGTERM)
    previous = [
        signal.signal(each, lambda number, frame: process.send_signal(number)) for each in signals
    ]
    try:
        return process.wait()
    finally:
        for each, handler in zip(signals, previous, strict=True):
            signal.signal(each, handler)


def flags_of(settings: dict) -> list[str]:
    """Write settings as flags of train_byol.py, over those of base.toml."""
    flags = ["--config", str(BASE)]
    for key, value in settings.items():
        values = map(str, value) if isinstance(value, list) else [str(value)]
        flags += ["--" + key.replace("_", "-"), *values]
    return flags


def pretrain(settings: dict, seed: int, data: str, run_dir: Path) -> dict:
    """Run train_byol.py to its end, from its last checkpoint if it has one: figures of the run."""
    command = [sys.executable, str(ROOT / "train_byol.py"), *flags_of(settings)]
    command += ["--data", data, "--seed", str(seed)]
    if "labels" not in settings:  # with --data the default would be all of them
        command += ["--labels", str(LABELS)]
    command += ["--run-dir", str(run_dir), "--out", str(run_dir / "byol.pt")]
    if holds_a_run(run_dir):
        command += ["--resume"]
    if not (run_dir / "byol.pt").exists() and (code := run_and_pass_signals_on(command)):
        sys.exit(code)
    lines = read_jsonl(run_dir / "metrics.jsonl")
    last_epoch = [line for line in lines if line["epoch"] > lines[-1]["epoch"] - 1]
    images = lines[-1]["step"] * json.loads((run_dir / "config.json").read_text())["batch_size"]
    speed = float(np.median([line["images_per_second"] for line in lines]))
    return {
        "steps": lines[-1]["step"],
        "minutes": round(images / speed / 60, 1),
        "loss": round(float(np.mean([line["loss"] for line in last_epoch])), 3),
        "spread": round(float(np.mean([line["spread"] for line in last_epoch])), 3),
    }


def read_encoder(path: Path) -> tuple[PretrainConfig, Encoder]:
    """Read an encoder that train_byol.py wrote, and the settings of its run."""
    content = checkpoint.load(path, checkpoint.ENCODER)
    return PretrainConfig(**content["config"]), checkpoint.load_encoder(content, path)


def read_table(path: Path) -> list[dict]:
    """Read the rows of a table; none if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def has_rows(table: Path, settings: dict, **keys: str) -> bool:
    """Tell whether the table has rows with these keys. Raises `UserError` if of other settings."""
    rows = [row for row in read_table(table) if all(row[key] == keys[key] for key in keys)]
    if rows and modern_settings(json.loads(rows[0]["settings"])) != modern_settings(settings):
        raise UserError(
            f"{keys['run']}: {table} has this run with other settings; give the new one another "
            "name"
        )
    return bool(rows)


def append(path: Path, rows: list[dict]) -> None:
    """Add rows to the table, all of them or none."""
    rows = read_table(path) + rows
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())


def judge(encoder: Encoder, config: PretrainConfig, sizes: list[int]) -> list[dict]:
    """Judge by cross-validation on labelled images: accuracy (%) at each size, by representation.

    Gives the mean over the draws of the labels, their lowest and their highest.
    """
    device = pick_device(config.device)
    amp = pick_amp(config.amp, device)
    prepare(encoder, device)
    photos = open_photos(**config.reading)
    draws = [
        make_split(photos, config.labels, config.holdout, config.split_seed, label_seed).labelled
        for label_seed in DRAWS
    ]
    rows = np.unique(np.concatenate(draws))
    all_widths = list(encoder.widths(config.block_grids).values())
    results = []
    for size in sizes:
        extract = FeatureExtractor(
            image_size=size, mean=config.mean, std=config.std, device=device, amp=amp,
            inner_blocks=config.block_grids, channels=config.channels,
        )  # fmt: skip
        features = extract(encoder, photos, rows, what="labelled images").cpu()
        for representation, widths in (("avgpool", all_widths[:1]), ("combined", all_widths)):
            scores = []
            for draw in draws:
                x = features[np.searchsorted(rows, draw), : sum(widths)]
                labels = torch.from_numpy(photos.labels[draw])
                scores.append(100 * cross_validate(x, labels, widths))
            results.append(
                {
                    "judged_at": size,
                    "representation": representation,
                    "accuracy": round(float(np.mean(scores)), 2),
                    "lowest": round(min(scores), 1),
                    "highest": round(max(scores), 1),
                }
            )
    return results


def cross_validate(features: torch.Tensor, labels: torch.Tensor, widths: list[int]) -> float:
    """Compute the share of right answers on left-out folds; the strength is chosen without them."""
    classes, right, fold = int(labels.max()) + 1, 0.0, folds_of(labels)
    for left_out in range(FOLDS):
        train, test = fold != left_out, fold == left_out
        standardise = Standardise(features[train], widths)
        head, _ = fit_linear(standardise(features[train]), labels[train], classes)
        right += accuracy(head, standardise(features[test]), labels[test]) * int(test.sum())
    return right / len(labels)


def folds_of(labels: torch.Tensor) -> torch.Tensor:
    """Give each image a fold (N,), each class spread evenly."""
    fold = torch.empty(len(labels), dtype=torch.long)
    fold[labels.argsort(stable=True)] = torch.arange(len(labels)) % FOLDS
    return fold


if __name__ == "__main__":
    sys.exit(main())
