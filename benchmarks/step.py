"""What the bare training step costs: with and without its tricks, and with inner losses.

python benchmarks/step.py --image-size 64 --batch-size 32
python benchmarks/step.py --device cuda --image-size 150 --batch-size 256

Steps on a batch of noise that is already augmented, the variants in turn. Prints one JSON line:
images/s of each (medians), and how many times as fast the first is, which has both tricks and one
loss.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

import torch
from common import now, versions

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from byol import small_maps
from byol.compiled import compile_encoders
from byol.config import PretrainConfig
from byol.device import describe, keep_freed_memory, pick_amp, pick_device
from byol.encoder import Encoder
from byol.errors import command
from byol.learner import BYOL
from byol.optim import build_optimizer, parameter_groups, set_lr


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--hidden-dim", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--device", default="cpu")
    keep = "what the training scripts do; --no-keep shows what it brings"
    parser.add_argument("--keep", action=argparse.BooleanOptionalAction, default=True, help=keep)
    parser.add_argument("--compile", action="store_true", help="time torch.compile as well")
    args = parser.parse_args(argv)

    device = pick_device(args.device)
    if args.keep:
        keep_freed_memory()
    amp = pick_amp("auto", device)
    shape = (args.batch_size, 3, args.image_size, args.image_size)
    views = [torch.randn(shape).to(device, memory_format=torch.channels_last) for _ in range(2)]

    def stepper(
        one_pass: bool, max_side: int, taps: dict[str, int] | None = None, compiled: bool = False
    ):
        torch.manual_seed(0)
        model = BYOL(Encoder(), hidden_dim=args.hidden_dim, one_pass=one_pass, taps=taps)
        model.to(device, memory_format=torch.channels_last)
        optimizer = build_optimizer("sgd", parameter_groups(model), 5e-4)
        set_lr(optimizer, 0.01)

        if compiled and (problem := compile_encoders(model, shape[0], [shape[3]], amp)):
            sys.exit(f"compiling failed: {problem}")
        weights = torch.ones(len(model.outputs), device=device)

        def seconds_of_a_step() -> float:
            start = now(device)
            with small_maps.up_to(max_side):
                optimizer.zero_grad()
                model.backward(*views, weights, amp)
                optimizer.step()
                model.update_target(0.99)
            return now(device) - start

        return seconds_of_a_step

    variants = {
        "one_pass": stepper(True, small_maps.MAX_SIDE),
        "pass_for_each_view": stepper(False, small_maps.MAX_SIDE),
        "inner_losses": stepper(True, small_maps.MAX_SIDE, PretrainConfig().grids),
    }
    if device.type == "cpu":
        variants["plain_convolutions"] = stepper(True, 0)
    if args.compile:
        variants["compiled"] = stepper(False, 0, compiled=True)
    times = {name: [] for name in variants}
    for turn in range(args.rounds + 1):
        for name, step in variants.items():
            taken = [step() for _ in range(2)]
            if turn:  # the first round warms up
                times[name] += taken
    speed = {name: args.batch_size / statistics.median(values) for name, values in times.items()}
    about = {
        "image_size": args.image_size,
        "batch_size": args.batch_size,
        "hidden_dim": args.hidden_dim,
        "device": describe(device, amp),
        "keep_freed_memory": args.keep,
        **versions(),
    }
    about |= {f"{name}_images_per_second": round(value, 1) for name, value in speed.items()}
    for name in list(variants)[1:]:
        about[f"times_{name}"] = round(speed["one_pass"] / speed[name], 2)
    print(json.dumps(about))


if __name__ == "__main__":
    sys.exit(main())
