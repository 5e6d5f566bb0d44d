"""What does predict.py cost beyond packing and bare forward passes? Prints one JSON line.

    python -m benchmarks.prediction --data cats_vs_dogs.zip --model classifier.pt

Takes turns: `predict.py` from start to end, in a process of its own; packing the same photos into
an empty cache; and as many bare forward passes of the same encoder, on a batch that is ready.
Reports medians over the rounds, and how many times as long the first takes as the other two.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.common import now, versions
from byol.command_line import command
from byol.evaluation.classifier import Classifier
from byol.hardware.device import autocast, describe, pick_amp, pick_device
from data import open_photos

ROOT = Path(__file__).resolve().parent.parent
BATCH = 128


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="as for predict.py")
    parser.add_argument("--model", required=True, help="a classifier")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args(argv)

    device = pick_device("auto")
    amp = pick_amp("auto", device)
    classifier = Classifier.load(args.model, device)
    seconds: dict[str, list[float]] = {"predict": [], "packing": [], "bare_forward": []}
    for round_index in range(args.rounds):
        with tempfile.TemporaryDirectory() as scratch:
            seconds["predict"].append(time_predict(args.data, args.model, scratch))
            side = classifier.stored_shape[0]
            packing, count = time_packing(args.data, side, scratch)
        seconds["packing"].append(packing)
        seconds["bare_forward"].append(time_forward(classifier, count, device, amp))
        told = ", ".join(f"{name} {times[-1]:.1f} s" for name, times in seconds.items())
        print(f"round {round_index}: {told}", file=sys.stderr)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    result = {
        "times_packing_and_forward": round(
            medians["predict"] / (medians["packing"] + medians["bare_forward"]), 3
        ),
        **{f"seconds_{name}": round(value, 4) for name, value in medians.items()},
        "peak_gib_of_predict": round(peak / 2**30, 2),
        "photos": count,
        "image_size": classifier.settings["image_size"],
        "rounds": args.rounds,
        "device": describe(device, amp),
        **versions(),
    }
    print(json.dumps(result))


def time_predict(data: str, model: str, scratch: str) -> float:
    """Time the script, with its start, in seconds."""
    script, out = str(ROOT / "predict.py"), str(Path(scratch) / "classes.csv")
    begin = time.perf_counter()
    command = [sys.executable, script, data, "--model", model, "--out", out, "--quiet"]
    subprocess.run(command, check=True)
    return time.perf_counter() - begin


def time_packing(data: str, side: int, scratch: str) -> tuple[float, int]:
    """Time packing into an empty cache: seconds, and the count of the photos."""
    os.environ["BYOL_CACHE"] = scratch
    begin = time.perf_counter()
    count = len(open_photos(data, side, progress=False).names)
    return time.perf_counter() - begin, count


@torch.no_grad()
def time_forward(classifier: Classifier, count: int, device, amp) -> float:
    """Time bare passes over `count` images, in seconds."""
    side = classifier.settings["image_size"]
    views = torch.rand(BATCH, 3, side, side, device=device)
    with autocast(device, amp):
        classifier.encoder.outputs(views, classifier.inner_blocks)  # warms up
    begin = now(device)
    for start in range(0, count, BATCH):
        with autocast(device, amp):
            classifier.encoder.outputs(views[: count - start], classifier.inner_blocks)
    return now(device) - begin


if __name__ == "__main__":
    sys.exit(main())
