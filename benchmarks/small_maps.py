"""What byol/small_maps.py brings: the bare training step with and without it, in turn.

python benchmarks/small_maps.py --image-size 64 --batch-size 64

Prints one JSON line: images/s of both (medians) and their ratio. CPU only.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from byol import small_maps
from byol.device import autocast, pick_amp
from byol.encoder import Encoder
from byol.learner import BYOL
from byol.optim import build_optimizer, parameter_groups, set_lr


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=6)
    args = parser.parse_args()

    cpu = torch.device("cpu")
    amp = pick_amp("auto", cpu)
    torch.manual_seed(0)
    model = BYOL(Encoder(), hidden_dim=1024).to(memory_format=torch.channels_last)
    optimizer = build_optimizer("sgd", parameter_groups(model), 5e-4)
    set_lr(optimizer, 0.01)
    shape = (args.batch_size, 3, args.image_size, args.image_size)
    views = [torch.randn(shape).to(memory_format=torch.channels_last) for _ in range(2)]

    def seconds_of_a_step() -> float:
        start = time.perf_counter()
        optimizer.zero_grad()
        with autocast(cpu, amp):
            loss, _ = model(*views)
        loss.backward()
        optimizer.step()
        model.update_target(0.99)
        return time.perf_counter() - start

    sides = {"convolutions": 0, "patches": small_maps.MAX_SIDE}
    times = {name: [] for name in sides}
    for turn in range(args.rounds + 1):
        for name, side in sides.items():
            small_maps.MAX_SIDE = side
            taken = [seconds_of_a_step() for _ in range(2)]
            if turn:  # the first round warms up
                times[name] += taken
    speed = {name: args.batch_size / statistics.median(values) for name, values in times.items()}
    print(
        json.dumps(
            {
                "image_size": args.image_size,
                "batch_size": args.batch_size,
                "precision": str(amp),
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
                **{f"{name}_images_per_second": round(value, 1) for name, value in speed.items()},
                "ratio": round(speed["patches"] / speed["convolutions"], 2),
            }
        )
    )


if __name__ == "__main__":
    main()
