"""Where does the time of a training step go? Prints one JSON line.

    python -m benchmarks.step_parts --config configs/cats_vs_dogs_64.toml --data cats_vs_dogs.zip
    python -m benchmarks.step_parts --device cuda --image-size 150 --batch-size 256

Takes the flags of train_byol.py, and steps as it does, in turn with bare steps on views that are
already made. Reports images/s of both (medians of a step), their ratio, and the parts of a step:
waiting for photos, augmenting, forward and backward, optimizer and moving average; and apart from
them what reading and copying a batch takes, which a thread does ahead of use. On CUDA, events time
the steps. Without --data the photos are noise.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import build_model, now, versions
from byol.command_line import command, parse
from byol.config import PretrainConfig
from byol.errors import UserError
from byol.hardware import small_maps
from byol.hardware.batches import Batches, gather
from byol.hardware.device import (
    describe,
    keep_freed_memory,
    peak_bytes,
    pick_amp,
    pick_device,
    set_deterministic,
)
from byol.hardware.step import Backward, LossScaler
from byol.method import BYOL
from byol.optim import build_optimizer, parameter_groups, set_lr
from byol.views.augment import TwoViews
from data import open_photos
from data.stored import StoredArray, write_array

EPOCH = 24_750  # unlabelled photos of Cats-vs-Dogs
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense 16-bit FLOP/s, by the vendor
PARTS = ("wait_for_photos", "augment", "forward_backward", "optimizer_and_average")
SETTINGS = (
    *("arch", "stem", "recipe", "losses", "image_size", "batch_size", "hidden_dim", "optimizer"),
    *("photos_in", "cuda_graph", "deterministic"),
)


class Clock:
    """Time between marks: events on CUDA, which cost the host nothing, else the wall clock."""

    def __init__(self, device: torch.device):
        self.cuda = device.type == "cuda"
        self.marks = []
        self.mark()

    def mark(self) -> None:
        if self.cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.marks.append(event)
        else:
            self.marks.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """List the seconds between neighbouring marks."""
        pairs = list(zip(self.marks, self.marks[1:], strict=False))
        if self.cuda:
            torch.cuda.synchronize()
            return [a.elapsed_time(b) / 1000 for a, b in pairs]
        return [b - a for a, b in pairs]


@dataclass
class Noise:
    """Stands for `Photos`."""

    images: StoredArray
    sizes: np.ndarray


def make_noise(count: int, side: int) -> Noise:
    """Make `count` photos of noise, in a file as those of a data set are."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 3, side, side), np.uint8)
    with tempfile.TemporaryDirectory() as folder:  # the file stays open, and so may be deleted
        path = Path(folder) / "noise.npy"
        write_array(path, pixels)
        return Noise(StoredArray(path, np.uint8, pixels.shape), np.full((count, 2), side))


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog="The flags of train_byol.py go as well."
    )
    parser.add_argument("--steps", type=int, default=6, help="of each kind, a round")
    parser.add_argument("--rounds", type=int, default=4)
    args, others = parser.parse_known_args(argv)
    config, flags = parse(PretrainConfig, others)
    if config.accumulate > 1:
        raise UserError("--accumulate: a batch is timed in one go; leave the option out")

    # ---- what train_byol.py builds
    set_deterministic(config.deterministic)
    device = pick_device(config.device)
    amp = pick_amp(config.amp, device)
    keep_freed_memory()
    if "data" in flags:
        photos, data = open_photos(config.data, config.stored_side), Path(config.data).name
    else:
        photos, data = make_noise(max(2 * config.batch_size, 1024), config.stored_side), "noise"
    rows = np.arange(len(photos.images))
    epochs = (args.rounds + 1) * args.steps  # at least as many as are needed
    schedule = dataclasses.replace(config, epochs=epochs).schedule(len(rows))
    model = build_model(config, device)
    scaler = LossScaler(device, amp)
    optimizer = build_optimizer(
        config.optimizer, parameter_groups(model), config.decay, scaler.enabled
    )
    set_lr(optimizer, 0.01)
    two_views = TwoViews(config.views, config.view_side, config.mean, config.std, config.seed)
    batches = Batches(photos, rows, schedule, config.photos_in, device)
    backward = Backward(model, config, amp, scaler)

    # ---- steps with photos and bare ones, in turn
    def train(view1: torch.Tensor, view2: torch.Tensor, clock: Clock) -> None:
        optimizer.zero_grad(set_to_none=True)
        backward(view1, view2)
        clock.mark()
        scaler.step(optimizer)
        model.update_target(0.99)
        clock.mark()

    step_clocks, bare_clocks, reading = [], [], []
    reader = batches.from_step(0)
    model.train()
    for _ in range(args.rounds + 1):
        for _ in range(args.steps):
            step_clocks.append(Clock(device))
            step, batch = next(reader)
            step_clocks[-1].mark()
            view1, view2 = two_views(batch, step)
            step_clocks[-1].mark()
            train(view1, view2, step_clocks[-1])
        for _ in range(args.steps):
            bare_clocks.append(Clock(device))
            train(view1, view2, bare_clocks[-1])
        for offset in range(args.steps):
            begin = now(device)
            gather(batches.images, (batch.rows + offset) % len(rows), device)
            reading.append(now(device) - begin)
    reader.close()

    # ---- medians; the first round warmed up
    medians, step_seconds = medians_of(step_clocks[args.steps :], PARTS)
    _, bare_seconds = medians_of(bare_clocks[args.steps :], PARTS[2:])
    data_seconds = medians["wait_for_photos"] + medians["augment"]
    medians["read_and_copy_in_its_thread"] = statistics.median(reading[args.steps :])
    memory = peak_bytes(device)
    flops = count_flops(model, view1[:2], view2[:2], amp) / 2
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    peak = next((value for key, value in PEAK.items() if key in name), None) if amp else None
    images = config.batch_size
    result = {
        "images_per_second": round(images / step_seconds, 1),
        "images_per_second_bare": round(images / bare_seconds, 1),
        "ratio_to_bare": round(bare_seconds / step_seconds, 3),
        "seconds_per_epoch_of_24750": round(EPOCH * step_seconds / images, 1),
        "milliseconds": {name: round(1000 * value, 1) for name, value in medians.items()},
        "share_of_data_and_augmentation": round(data_seconds / step_seconds, 3),
        "peak_memory_gib": round(memory / 2**30, 2),
        "gflops_per_image": round(flops / 1e9, 2),
        "teraflops_per_second": round(flops * images / step_seconds / 1e12, 2),
        "share_of_peak": peak and round(flops * images / step_seconds / peak, 3),
        "data": data,
        "view_size": config.view_side,
        **{key: getattr(config, key) for key in SETTINGS},
        "steps": args.steps,
        "rounds": args.rounds,
        "device": f"{describe(device, amp)}, {backward}",
        **versions(),
    }
    print(json.dumps(result))


def medians_of(clocks: list[Clock], names: tuple[str, ...]) -> tuple[dict[str, float], float]:
    """Compute the median seconds of each part of a step, and of the step from end to end."""
    seconds = np.array([clock.seconds() for clock in clocks])  # (steps, parts)
    parts = dict(zip(names, np.median(seconds, axis=0).tolist(), strict=True))
    return parts, float(np.median(seconds.sum(axis=1)))


def count_flops(
    model: BYOL, view1: torch.Tensor, view2: torch.Tensor, amp: torch.dtype | None
) -> int:
    """Count the floating-point operations of forward and backward of two views."""
    weights = torch.ones(len(model.outputs), device=view1.device)
    with FlopCounterMode(display=False) as counter, small_maps.up_to(0):
        model.backward(view1, view2, weights, amp)
    return counter.get_total_flops()


if __name__ == "__main__":
    sys.exit(main())
