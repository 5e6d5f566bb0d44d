"""What does the bare training step cost with and without its tricks? Prints one JSON line.

    python -m benchmarks.step_variants --image-size 64 --batch-size 32
    python -m benchmarks.step_variants --device cuda --image-size 150 --batch-size 256 --compile

Takes steps on noise that stands for augmented views, the variants in turn: both views in one pass,
a pass for each view, inner losses as well (in one pass), convolutions on small maps without patches
(on a CPU), and the encoders compiled (--compile). Reports images/s of each (medians), and how many
times as fast the first is.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable

import torch

from benchmarks.common import now, versions
from byol.command_line import command
from byol.config import PretrainConfig
from byol.encoder import Encoder
from byol.hardware.device import describe, keep_freed_memory, pick_amp, pick_device
from byol.hardware.one_pass import take_one_pass
from byol.hardware.step import prepare
from byol.method import BYOL
from byol.optim import build_optimizer, parameter_groups, set_lr


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image-size", type=int, default=64, help="side of the views")
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

    def variant(
        *,
        one_pass: bool = True,
        patches: bool = True,
        inner_blocks: dict[str, int] | None = None,
        compiled: bool = False,
    ) -> Callable[[], float]:
        """Build a variant: a function that takes a step, and returns its seconds."""
        torch.manual_seed(0)
        model = BYOL(Encoder(), args.hidden_dim, inner_blocks=inner_blocks)
        if patches:
            prepare(model, device)
        else:
            model.to(device, memory_format=torch.channels_last)
        if one_pass:
            take_one_pass(model)
        if compiled:
            for encoder in (model.encoder, model.target_encoder):
                encoder.outputs = torch.compile(encoder.outputs, dynamic=False)
        optimizer = build_optimizer("sgd", parameter_groups(model), 5e-4)
        set_lr(optimizer, 0.01)
        weights = torch.ones(len(model.outputs), device=device)

        def time_step() -> float:
            begin = now(device)
            optimizer.zero_grad(set_to_none=True)
            model.backward(*views, weights, amp)
            optimizer.step()
            model.update_target(0.99)
            return now(device) - begin

        return time_step

    variants = {
        "one_pass": variant(),
        "pass_for_each_view": variant(one_pass=False),
        "inner_losses": variant(inner_blocks=PretrainConfig().block_grids),
    }
    if device.type == "cpu":
        variants["plain_convolutions"] = variant(patches=False)
    if args.compile:
        variants["compiled"] = variant(one_pass=False, patches=False, compiled=True)
    times = {name: [] for name in variants}
    for round_index in range(args.rounds + 1):
        for name, time_step in variants.items():
            seconds = [time_step() for _ in range(2)]
            if round_index:  # the first round warms up
                times[name] += seconds
    speed = {name: args.batch_size / statistics.median(values) for name, values in times.items()}
    result = {f"{name}_images_per_second": round(value, 1) for name, value in speed.items()}
    for name in list(variants)[1:]:
        result[f"times_{name}"] = round(speed["one_pass"] / speed[name], 2)
    result |= {
        "image_size": args.image_size,
        "batch_size": args.batch_size,
        "hidden_dim": args.hidden_dim,
        "device": describe(device, amp),
        "keep_freed_memory": args.keep,
        **versions(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    sys.exit(main())
