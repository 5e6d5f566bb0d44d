"""What does evaluating an encoder cost beyond its forward passes? Prints one JSON line.

    python benchmarks/evaluation.py --data cats_vs_dogs.zip --image-size 64

In turn: the features of all photos, with the linear evaluation and kNN that evaluate.py makes of
them; and as many bare forward passes, in evaluation mode, on a batch that is ready. Medians over
the rounds, and how many times as long the first takes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

import numpy as np
import torch
from common import now, versions

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from byol.augment import central_view
from byol.config import PretrainConfig
from byol.device import autocast, describe, keep_freed_memory, pick_amp, pick_device
from byol.encoder import Encoder
from byol.errors import command
from byol.linear_eval import Features
from byol.loader import gather
from byol.probe import extract_features
from data import make_split, open_photos

BATCH = 256


@command
def main(argv: list[str] | None = None) -> None:
    defaults = PretrainConfig()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="as for train_byol.py, with classes")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--labels", type=int, default=250)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(argv)

    device = pick_device(args.device)
    keep_freed_memory()
    amp = pick_amp("auto", device)
    size = args.image_size
    photos = open_photos(args.data, PretrainConfig(image_size=size).stored_side)
    split = make_split(photos, args.labels)
    rows = np.arange(len(photos.images))
    torch.manual_seed(0)
    encoder = Encoder().to(device, memory_format=torch.channels_last).eval()
    viewing = {"image_size": size, "mean": defaults.mean, "std": defaults.std}
    first = rows[:BATCH]
    views = central_view(gather(photos.images, first, device), photos.sizes[first], **viewing)

    @torch.no_grad()
    def forward() -> float:
        begin = now(device)
        for at in range(0, len(rows), BATCH):
            with autocast(device, amp):
                encoder(views[: len(rows) - at])
        return now(device) - begin

    def evaluate() -> tuple[float, float]:
        begin = now(device)
        values = extract_features(encoder, photos, rows, device=device, amp=amp, **viewing)
        middle = now(device)
        features = Features(values, rows, photos.labels, encoder.widths({}))
        features.judge("avgpool", split.labelled, split.unlabelled, len(photos.classes))
        return middle - begin, now(device) - middle

    forward()  # warms up
    bare, extracting, judging = [], [], []
    for number in range(args.rounds):
        extraction, judgement = evaluate()
        extracting.append(extraction)
        judging.append(judgement)
        bare.append(forward())
        print(f"round {number}: {extraction:.1f} + {judgement:.1f} s, forward {bare[-1]:.1f} s",
              file=sys.stderr)  # fmt: skip
    whole = [a + b for a, b in zip(extracting, judging, strict=True)]
    result = {
        "times_bare_forward": round(statistics.median(whole) / statistics.median(bare), 3),
        "seconds_features": round(statistics.median(extracting), 2),
        "seconds_linear_and_knn": round(statistics.median(judging), 2),
        "seconds_bare_forward": round(statistics.median(bare), 2),
        "photos": len(rows),
        "labels": args.labels,
        "image_size": size,
        "rounds": args.rounds,
        "device": describe(device, amp),
        **versions(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    sys.exit(main())
