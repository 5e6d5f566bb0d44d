"""This project against lightly and byol-pytorch: the same photos, model, batch and image size.

    pip install -r benchmarks/requirements.txt
    python benchmarks/peers.py --data cats_vs_dogs.zip --image-size 64 --batch-size 128

Whole training loops, each turn in a process of its own, in turn (A B C A B C ...). lightly runs as
its own example does: its transforms, heads, momentum update, SGD, DataLoader workers. byol-pytorch
runs as its README shows it: its own augmentations and Adam; the README leaves reading photos to the
user, so it gets a DataLoader that decodes and resizes. Both run as shipped (float32), and once more
with the autocast and channels_last memory that this project uses. This project is train_byol.py.

A turn is `--steps` steps after `--warmup` ones, timed from end to end; reading photos is part of it
(this project decodes them once, in a pack made before its first step, which is not in its figure;
nor is their way onto a GPU, where they fit there).
Prints one JSON line: images/s of each (medians over the turns) and how many times as fast this
project is.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torchvision
from common import ROOT, now, versions
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from byol.device import autocast, describe, pick_amp, pick_device
from byol.errors import command

CONTESTANTS = ("byol", "lightly", "byol-pytorch", "lightly-fast", "byol-pytorch-fast")


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="a .zip, or a folder of class folders")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--hidden-dim", type=int, default=1024, help="of the heads, for all")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="of the DataLoaders")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--one", choices=CONTESTANTS, help="one turn of one of them")
    args = parser.parse_args(argv)
    if args.one:
        print(json.dumps(turn(args)))
        return

    with tempfile.TemporaryDirectory() as scratch:
        os.environ["BYOL_CACHE"] = f"{scratch}/packed"
        ahead = 2 * args.workers  # batches: a DataLoader still reads ahead when the clock stops
        photos = (args.warmup + args.steps + ahead) * args.batch_size
        folder = unpacked(Path(args.data), photos, Path(scratch) / "photos")
        speeds: dict[str, list[float]] = defaultdict(list)
        for number in range(args.rounds):
            for name in CONTESTANTS:
                passed = {**vars(args), "data": folder, "one": name}
                flags = [f"--{key.replace('_', '-')}={value}" for key, value in passed.items()]
                command = [sys.executable, __file__, *flags]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    sys.exit(f"{name} failed:\n{done.stderr[-2000:]}")
                speeds[name].append(json.loads(done.stdout.splitlines()[-1]))
                print(f"round {number} {name} {speeds[name][-1]:.1f}", file=sys.stderr, flush=True)
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    device = pick_device(args.device)
    result = {
        "images_per_second": {name: round(value, 1) for name, value in medians.items()},
        "times": {name: round(medians["byol"] / value, 2) for name, value in medians.items()},
        **{k: getattr(args, k) for k in ("image_size", "batch_size", "hidden_dim", "workers")},
        **{k: getattr(args, k) for k in ("steps", "warmup", "rounds")},
        "device": describe(device, pick_amp("auto", device)),
        **versions(),
    }
    print(json.dumps(result))


def unpacked(source: Path, count: int, folder: Path) -> Path:
    """A folder of `count` JPEG files in class folders: `source` itself, or out of its archive."""
    if source.is_dir():
        return source
    if not zipfile.is_zipfile(source):
        sys.exit(f"--data {source}: give a .zip, or a folder of class folders")
    with zipfile.ZipFile(source) as archive:
        files = [f for f in archive.infolist() if f.filename.lower().endswith(".jpg")]
        files = [f for f in files if f.file_size]  # some of Cats-vs-Dogs are empty
        if len(files) < count:
            sys.exit(f"--data {source}: {len(files):,} photos, and {count:,} are needed")
        for number in range(count):
            file = files[number * len(files) // count]
            target = folder / Path(file.filename).parent.name / f"{number}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(file))
    return folder


def turn(args: argparse.Namespace) -> float:
    """Images/s of one contestant."""
    if args.one == "byol":
        return this_project(args)
    torch.manual_seed(0)
    device = pick_device(args.device)
    amp = pick_amp("auto", device) if args.one.endswith("-fast") else None
    make = lightly if args.one.startswith("lightly") else byol_pytorch
    loader, step = make(args, device, amp)
    endless = cycle(loader)
    for number in range(args.warmup + args.steps):
        if number == args.warmup:
            begin = now(device)
        step(next(endless))
    return args.steps * args.batch_size / (now(device) - begin)


def cycle(loader) -> Iterator:
    while True:
        yield from loader


def this_project(args: argparse.Namespace) -> float:
    """train_byol.py on the same photos; its own clock leaves out saving, one time an epoch."""
    with tempfile.TemporaryDirectory() as folder:
        steps = args.warmup + args.steps
        flags = f"--image-size {args.image_size} --batch-size {args.batch_size} --labels 0"
        flags += f" --hidden-dim {args.hidden_dim} --optimizer sgd --device {args.device}"
        flags += f" --epochs 1 --log-every 1 --run-dir {folder}/run --out {folder}/byol.pt"
        command = [sys.executable, str(ROOT / "train_byol.py"), "--data", args.data]
        command += ["--config", os.devnull]  # the paper's views and loss, no file in configs/
        subprocess.run([*command, *flags.split()], check=True, stdout=subprocess.DEVNULL)
        lines = Path(folder, "run", "metrics.jsonl").read_text().splitlines()
    speeds = [json.loads(line)["images_per_second"] for line in lines[args.warmup : steps]]
    return len(speeds) / sum(1 / speed for speed in speeds)


def loader_of(args: argparse.Namespace, transform: Callable) -> torch.utils.data.DataLoader:
    photos = torchvision.datasets.ImageFolder(args.data, transform)
    return torch.utils.data.DataLoader(
        photos,
        args.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=args.workers,
        pin_memory=pick_device(args.device).type == "cuda",
    )


def lightly(args: argparse.Namespace, device: torch.device, amp: torch.dtype | None):
    """lightly's BYOL for PyTorch: two networks, one view at a time, momentum update first."""
    transform, _, _, step = lightly_learner(args.image_size, args.hidden_dim, device, amp)
    return loader_of(args, transform), step


def lightly_learner(size: int, hidden: int, device: torch.device, amp: torch.dtype | None):
    """Its transform for views of `size` px, its networks, its optimizer and its step.

    The networks are the children online, target and predict of one module; online[0] is the
    backbone, a Sequential of the children of torchvision's ResNet-18.
    """
    from lightly.loss import NegativeCosineSimilarity
    from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead
    from lightly.models.utils import deactivate_requires_grad, update_momentum
    from lightly.transforms.byol_transform import (
        BYOLTransform,
        BYOLView1Transform,
        BYOLView2Transform,
    )

    transform = BYOLTransform(BYOLView1Transform(size), BYOLView2Transform(size))
    backbone = nn.Sequential(*list(torchvision.models.resnet18().children())[:-1], nn.Flatten())
    online = nn.Sequential(backbone, BYOLProjectionHead(512, hidden, 256))
    target = copy.deepcopy(online)
    deactivate_requires_grad(target)
    predict = BYOLPredictionHead(256, hidden, 256)
    memory = torch.contiguous_format if amp is None else torch.channels_last
    networks = nn.ModuleDict({"online": online, "target": target, "predict": predict})
    networks.to(device, memory_format=memory)
    criterion = NegativeCosineSimilarity()
    optimizer = torch.optim.SGD([*online.parameters(), *predict.parameters()], lr=0.06)

    def step(batch) -> torch.Tensor:
        view1, view2 = (v.to(device, memory_format=memory, non_blocking=True) for v in batch[0])
        update_momentum(online, target, m=0.99)
        with autocast(device, amp):
            p1, t1 = predict(online(view1)), target(view1)
            p2, t2 = predict(online(view2)), target(view2)
            loss = 0.5 * (criterion(p1, t2) + criterion(p2, t1))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return transform, networks, optimizer, step


def byol_pytorch(args: argparse.Namespace, device: torch.device, amp: torch.dtype | None):
    """byol-pytorch's learner around a torchvision ResNet, with Adam, as in its README."""
    import byol_pytorch as package

    transform = torchvision.transforms.Compose(
        [
            torchvision.transforms.Resize((args.image_size, args.image_size)),
            torchvision.transforms.ToTensor(),
        ]
    )
    learner = package.BYOL(
        torchvision.models.resnet18().to(device),
        image_size=args.image_size,
        hidden_layer="avgpool",
        projection_hidden_size=args.hidden_dim,
    )
    memory = torch.contiguous_format if amp is None else torch.channels_last
    learner.to(memory_format=memory)
    optimizer = torch.optim.Adam(learner.parameters(), lr=3e-4)

    def step(batch) -> None:
        images = batch[0].to(device, memory_format=memory, non_blocking=True)
        with autocast(device, amp):
            loss = learner(images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        learner.update_moving_average()

    return loader_of(args, transform), step


if __name__ == "__main__":
    sys.exit(main())
