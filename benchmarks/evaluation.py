"""What does evaluating an encoder cost beyond its forward passes? Prints one JSON line.

    python -m benchmarks.evaluation --data cats_vs_dogs.zip --image-size 64

Takes turns: the features of all photos, with the linear evaluation and kNN that evaluate.py makes
of them; and as many bare forward passes, in evaluation mode, on a batch that is ready. Reports
medians over the rounds, and how many times as long the first takes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys

import numpy as np
import torch

from benchmarks.common import now, versions
from byol.command_line import command
from byol.config import PretrainConfig
from byol.encoder import Encoder
from byol.evaluation.features import BATCH, FeatureExtractor
from byol.evaluation.linear_and_knn import FeatureBank
from byol.hardware.batches import gather
from byol.hardware.device import autocast, describe, keep_freed_memory, pick_amp, pick_device
from byol.hardware.step import prepare
from byol.views.augment import central_view
from data import make_split, open_photos


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="as for train_byol.py, with classes")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--store-size", type=int, help="as for train_byol.py")
    parser.add_argument("--labels", type=int, default=250)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(argv)

    device = pick_device(args.device)
    keep_freed_memory()
    amp = pick_amp("auto", device)
    config = PretrainConfig(image_size=args.image_size, store_size=args.store_size)
    photos = open_photos(args.data, config.stored_side)
    split = make_split(photos, args.labels)
    rows = np.arange(len(photos.images))
    torch.manual_seed(0)
    encoder = prepare(Encoder(), device).eval()
    viewing = {"image_size": config.image_size, "mean": config.mean, "std": config.std}
    extract = FeatureExtractor(**viewing, device=device, amp=amp)
    first = rows[:BATCH]
    views = central_view(gather(photos.images, first, device), photos.sizes[first], **viewing)

    @torch.no_grad()
    def time_forward() -> float:
        """Time the bare passes, in seconds."""
        begin = now(device)
        for start in range(0, len(rows), BATCH):
            with autocast(device, amp):
                encoder(views[: len(rows) - start])
        return now(device) - begin

    def time_evaluation() -> tuple[float, float]:
        """Time the features, and what is made of them, in seconds."""
        begin = now(device)
        features = extract(encoder, photos, rows)
        middle = now(device)
        bank = FeatureBank(features, rows, photos.labels, encoder.widths({}))
        bank.judge("avgpool", split.labelled, split.unlabelled, len(photos.classes))
        return middle - begin, now(device) - middle

    time_forward()  # warms up
    bare, extracting, judging = [], [], []
    for round_index in range(args.rounds):
        for times, seconds in zip((extracting, judging), time_evaluation(), strict=True):
            times.append(seconds)
        bare.append(time_forward())
        print(f"round {round_index}: {extracting[-1]:.1f} + {judging[-1]:.1f} s, "
              f"forward {bare[-1]:.1f} s", file=sys.stderr)  # fmt: skip
    evaluating = [a + b for a, b in zip(extracting, judging, strict=True)]
    result = {
        "times_bare_forward": round(statistics.median(evaluating) / statistics.median(bare), 3),
        "seconds_features": round(statistics.median(extracting), 2),
        "seconds_linear_and_knn": round(statistics.median(judging), 2),
        "seconds_bare_forward": round(statistics.median(bare), 2),
        "photos": len(rows),
        "labels": args.labels,
        "image_size": args.image_size,
        "rounds": args.rounds,
        "device": describe(device, amp),
        **versions(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    sys.exit(main())
