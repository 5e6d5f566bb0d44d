"""Where the time of training goes. Prints one JSON line.

    python benchmarks/train_step.py --data cats_vs_dogs.zip --image-size 150 --batch-size 64
    python benchmarks/train_step.py --device cuda --image-size 150 --batch-size 256

Takes steps as train_byol.py does, in turn with bare steps on views that are already made. Reports
images/s of both (medians of a step), their ratio, and the parts of a step: waiting for photos,
augmenting, forward and backward, optimizer and moving average; and apart from them what reading
and copying a batch takes, which a thread does ahead of use. On CUDA steps are timed by events.
Without --data the photos are noise.
"""

from __future__ import annotations

import argparse
import functools
import json
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from common import now, versions
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from byol import small_maps
from byol.augment import RECIPES, two_views
from byol.compiled import compile_encoders
from byol.config import PretrainConfig
from byol.cuda_graph import RecordedBackward
from byol.device import describe, keep_freed_memory, pick_amp, pick_device
from byol.encoder import ARCHITECTURES, STEMS, Encoder
from byol.errors import command
from byol.learner import BYOL
from byol.loader import batches, gather, put_on_device
from byol.memory import estimate_step_bytes
from byol.optim import build_optimizer, parameter_groups, set_lr
from byol.per_view import MOST_PIXELS
from byol.stored_array import StoredArray
from data import open_photos
from data.columns import write_array

EPOCH = 24_750  # unlabelled photos of Cats-vs-Dogs
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense 16-bit FLOP/s, by the vendor
PARTS = ("wait_for_photos", "augment", "forward_backward", "optimizer_and_average")


class Clock:
    """Time between marks: events on CUDA, which cost the host nothing, else the wall clock."""

    def __init__(self, device: torch.device):
        self.cuda = device.type == "cuda"
        self.marks = []

    def mark(self) -> None:
        if self.cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.marks.append(event)
        else:
            self.marks.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """Between neighbouring marks."""
        pairs = list(zip(self.marks, self.marks[1:], strict=False))
        if self.cuda:
            torch.cuda.synchronize()
            return [a.elapsed_time(b) / 1000 for a, b in pairs]
        return [b - a for a, b in pairs]


@command
def main(argv: list[str] | None = None) -> None:
    defaults = PretrainConfig()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="as for train_byol.py; default: noise")
    parser.add_argument("--image-size", type=int, default=150)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--amp", default="auto")
    parser.add_argument("--arch", choices=tuple(ARCHITECTURES), default="resnet18")
    parser.add_argument("--stem", choices=STEMS, default="imagenet")
    parser.add_argument("--recipe", choices=tuple(RECIPES), default="photos")
    parser.add_argument("--hidden-dim", type=int, default=defaults.hidden_dim)
    parser.add_argument("--optimizer", default=defaults.optimizer)
    parser.add_argument("--steps", type=int, default=6, help="of each kind, a round")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--photos-in", choices=("host", "device"), default="host")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--cuda-graph", action=argparse.BooleanOptionalAction, default=True)
    args = parser.parse_args(argv)

    device = pick_device(args.device)
    keep_freed_memory()
    amp = pick_amp(args.amp, device)
    size, batch = args.image_size, args.batch_size
    stored = PretrainConfig(image_size=size).stored_side
    if args.data:
        photos = open_photos(args.data, stored)
        images, sizes = photos.images, photos.sizes
    else:
        count = max(2 * batch, 1024)
        pixels = np.random.default_rng(0).integers(0, 256, (count, 3, stored, stored), np.uint8)
        with tempfile.TemporaryDirectory() as folder:  # it stays open, and so may be deleted
            write_array(Path(folder) / "noise.npy", pixels)
            images = StoredArray(Path(folder) / "noise.npy", np.uint8, pixels.shape)
        sizes = np.full((count, 2), stored)

    torch.manual_seed(0)
    one_pass = device.type == "cpu" and batch * size**2 <= MOST_PIXELS
    model = BYOL(Encoder(args.arch, args.stem), args.hidden_dim, one_pass=one_pass)
    estimate = estimate_step_bytes(model, size, batch, args.optimizer, amp, device)
    model.to(device, memory_format=torch.channels_last)
    optimizer = build_optimizer(args.optimizer, parameter_groups(model), 1e-6, amp == torch.float16)
    scaler = torch.amp.GradScaler(device.type, enabled=amp == torch.float16)
    set_lr(optimizer, 0.01)
    weights = torch.ones(1, device=device)
    if args.compile and (problem := compile_encoders(model, batch, [size], amp)):
        sys.exit(f"compiling failed: {problem}")
    backward = functools.partial(model.backward, weights=weights, amp=amp, scale=scaler.scale)
    if args.cuda_graph and device.type == "cuda" and not args.compile:
        backward = RecordedBackward(model, (batch, 3, size, size), weights, amp, scaler.scale)
    if args.photos_in == "device":
        images = put_on_device(images, device)
    augment1, augment2 = two_views(RECIPES[args.recipe], size, defaults.mean, defaults.std, 0)

    def train(view1: torch.Tensor, view2: torch.Tensor, clock: Clock) -> None:
        optimizer.zero_grad(set_to_none=True)
        backward(view1, view2)
        clock.mark()
        scaler.step(optimizer)
        scaler.update()
        model.update_target(0.99)
        clock.mark()

    whole_clocks, bare_clocks, copies = [], [], []

    def start(clocks: list[Clock]) -> Clock:
        clocks.append(Clock(device))
        clocks[-1].mark()
        return clocks[-1]

    rows = np.arange(len(images))
    total = (args.rounds + 1) * args.steps
    reader = batches(images, rows, batch, 0, range(total), device)
    for _ in range(args.rounds + 1):
        for _ in range(args.steps):
            watch = start(whole_clocks)
            step, chosen, part = next(reader)
            watch.mark()
            view1 = augment1(part, sizes[chosen], chosen, step)
            view2 = augment2(part, sizes[chosen], chosen, step)
            watch.mark()
            train(view1, view2, watch)
        for _ in range(args.steps):
            train(view1, view2, start(bare_clocks))
        for number in range(args.steps):  # in the loop the reader's thread does it ahead of use
            began = now(device)
            gather(images, (chosen + number) % len(images), device)
            copies.append(now(device) - began)
    # the first round warms up
    whole_times = [clock.seconds() for clock in whole_clocks[args.steps :]]
    bare_times = [clock.seconds() for clock in bare_clocks[args.steps :]]
    whole = dict(zip(PARTS, zip(*whole_times, strict=True), strict=True))
    bare = dict(zip(PARTS[2:], zip(*bare_times, strict=True), strict=True))

    whole_step = statistics.median(sum(parts) for parts in zip(*whole.values(), strict=True))
    bare_step = statistics.median(sum(parts) for parts in zip(*bare.values(), strict=True))
    medians = {name: statistics.median(values) for name, values in whole.items()}
    medians["read_and_copy_in_its_thread"] = statistics.median(copies[args.steps :])
    memory = peak_memory(device)
    with FlopCounterMode(display=False) as counter, small_maps.up_to(0):
        model.backward(view1[:2], view2[:2], weights, amp)
    flops = counter.get_total_flops() / 2
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    peak = next((value for key, value in PEAK.items() if key in name), None) if amp else None
    result = {
        "images_per_second": round(batch / whole_step, 1),
        "images_per_second_bare": round(batch / bare_step, 1),
        "ratio_to_bare": round(bare_step / whole_step, 3),
        "seconds_per_epoch_of_24750": round(EPOCH * whole_step / batch, 1),
        "milliseconds": {name: round(1000 * value, 1) for name, value in medians.items()},
        "share_of_data_and_augmentation": round(
            (medians["wait_for_photos"] + medians["augment"]) / whole_step, 3
        ),
        "peak_memory_gib": round(memory / 2**30, 2),
        "estimated_memory_gib": round(estimate / 2**30, 2),
        "gflops_per_image": round(flops / 1e9, 2),
        "teraflops_per_second": round(flops * batch / whole_step / 1e12, 2),
        "share_of_peak": peak and round(flops * batch / whole_step / peak, 3),
        **vars(args),
        "data": Path(args.data).name if args.data else "noise",
        "device": describe(device, amp),
        **versions(),
    }
    print(json.dumps(result))


def peak_memory(device: torch.device) -> int:
    """Bytes reserved on a card; on the CPU those of the process, mapped files included."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # KiB on Linux


if __name__ == "__main__":
    sys.exit(main())
