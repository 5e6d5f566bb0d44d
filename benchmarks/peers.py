"""This project against lightly and byol-pytorch: the same photos, model, batch and image size.

    pip install -r benchmarks/requirements.txt
    python -m benchmarks.peers --data cats_vs_dogs.zip --image-size 64 --batch-size 128

Runs entire training loops, each turn in a process of its own, in turn (A B C A B C ...). lightly
runs as its own example does: its transforms, heads, momentum update, SGD, DataLoader workers.
byol-pytorch runs as its README shows it: its own augmentations and Adam; the README leaves reading
photos to the user, so it gets a DataLoader that decodes and resizes. Both run as shipped (float32),
and once more with the autocast and channels_last memory that this project uses. This project runs
train_byol.py with the paper's views, one loss and SGD.

A turn is `--steps` steps after `--warmup` ones, timed from end to end, with the reading of the
photos. (This project decodes them once, in a pack made before its first step, which is not in its
figure; nor is their way onto a GPU, if they fit there.) Prints one JSON line: images/s of each
(medians over the turns) and how many times as fast this project is.
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
from torch import nn

from benchmarks.common import ROOT, now, versions
from byol.command_line import command
from byol.hardware.device import autocast, describe, pick_amp, pick_device
from byol.run.metrics import read_jsonl

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
    parser.add_argument("--one", choices=CONTESTANTS, help="take one turn of one of them")
    args = parser.parse_args(argv)
    if args.one:
        print(json.dumps(take_turn(args)))
        return

    with tempfile.TemporaryDirectory() as scratch:
        os.environ["BYOL_CACHE"] = f"{scratch}/packed"
        ahead = 2 * args.workers  # batches: a DataLoader still reads ahead when the clock stops
        photos = (args.warmup + args.steps + ahead) * args.batch_size
        folder = unpack(Path(args.data), photos, Path(scratch) / "photos")
        speeds: dict[str, list[float]] = defaultdict(list)
        for round_index in range(args.rounds):
            for name in CONTESTANTS:
                passed = {**vars(args), "data": folder.resolve(), "one": name}
                flags = [f"--{key.replace('_', '-')}={value}" for key, value in passed.items()]
                command = [sys.executable, "-m", "benchmarks.peers", *flags]
                done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
                if done.returncode:
                    sys.exit(f"{name} failed:\n{done.stderr[-2000:]}")
                speeds[name].append(json.loads(done.stdout.splitlines()[-1]))
                said = f"round {round_index} {name} {speeds[name][-1]:.1f}"
                print(said, file=sys.stderr, flush=True)
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


def unpack(data: Path, count: int, folder: Path) -> Path:
    """Write `count` JPEG files of the archive `data` into class folders in `folder`.

    Returns the folder of the files: if `data` is one already, nothing is written.
    """
    if data.is_dir():
        return data
    if not zipfile.is_zipfile(data):
        sys.exit(f"--data {data}: give a .zip, or a folder of class folders")
    with zipfile.ZipFile(data) as archive:
        files = [f for f in archive.infolist() if f.filename.lower().endswith(".jpg")]
        files = [f for f in files if f.file_size]  # some of Cats-vs-Dogs are empty
        if len(files) < count:
            sys.exit(f"--data {data}: {len(files):,} photos, and {count:,} are needed")
        for index in range(count):
            file = files[index * len(files) // count]
            path = folder / Path(file.filename).parent.name / f"{index}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.read(file))
    return folder


def take_turn(args: argparse.Namespace) -> float:
    """Run one contestant: its images/s."""
    if args.one == "byol":
        return run_train_byol(args)
    torch.manual_seed(0)
    device = pick_device(args.device)
    amp = pick_amp("auto", device) if args.one.endswith("-fast") else None
    make = lightly if args.one.startswith("lightly") else byol_pytorch
    loader, step = make(args, device, amp)
    endless = cycle(loader)
    for step_index in range(args.warmup + args.steps):
        if step_index == args.warmup:
            begin = now(device)
        step(next(endless))
    return args.steps * args.batch_size / (now(device) - begin)


def cycle(loader) -> Iterator:
    """Yield the batches of a loader, again and again."""
    while True:
        yield from loader


def run_train_byol(args: argparse.Namespace) -> float:
    """Run train_byol.py on the same photos: its images/s. Its clock leaves saving out."""
    with tempfile.TemporaryDirectory() as folder:
        flags = f"--optimizer sgd --image-size {args.image_size} --view-size {args.image_size}"
        flags += f" --batch-size {args.batch_size} --hidden-dim {args.hidden_dim} --labels 0"
        flags += f" --epochs 1 --log-every 1 --device {args.device}"
        command = [sys.executable, str(ROOT / "train_byol.py"), "--data", args.data]
        command += ["--config", str(ROOT / "configs" / "paper.toml"), *flags.split()]
        command += ["--run-dir", f"{folder}/run", "--out", f"{folder}/byol.pt"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        lines = read_jsonl(f"{folder}/run/metrics.jsonl")
    timed = lines[args.warmup : args.warmup + args.steps]
    return len(timed) / sum(1 / line["images_per_second"] for line in timed)


def loader_of(args: argparse.Namespace, transform: Callable) -> torch.utils.data.DataLoader:
    """Build the DataLoader of a peer."""
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
    """Build lightly's BYOL: two networks, one view at a time, momentum update first."""
    transform, _, _, step = lightly_learner(args.image_size, args.hidden_dim, device, amp)
    return loader_of(args, transform), step


def lightly_learner(size: int, hidden: int, device: torch.device, amp: torch.dtype | None):
    """Build lightly's transform for views of `size` px, its networks, optimizer and step.

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
    """Build byol-pytorch's learner around a torchvision ResNet, with Adam, as in its README."""
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
