"""What lightly's BYOL learns in a given time: its encoder, for evaluate.py to judge like our own.

    pip install -r benchmarks/requirements.txt
    python -m experiments.lightly --data cats_vs_dogs.zip --cpu-minutes 93 --out lightly.pt
    python evaluate.py lightly.pt --labels 250 --seeds 5 --frozen-only

Trains as shipped: the transforms, heads, momentum 0.99, SGD at 0.06 and batch 256 of its own
example, in float32, on views of 32 px as there. It reads all photos of the archive. The time is
that of the processor, summed over the threads, so that other work on the machine costs it nothing;
photos are decoded and augmented in the same process, so all is counted. If it is stopped, the same
command goes on from the last save (with another order of the photos than without the stop).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch
import torchvision

from benchmarks.common import versions
from benchmarks.peers import cycle, lightly_learner, unpack
from byol.command_line import command
from byol.config import PretrainConfig
from byol.run import checkpoint
from data import open_photos


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="a .zip of photos in class folders")
    parser.add_argument("--out", default="lightly.pt", help="file for the encoder")
    parser.add_argument("--cpu-minutes", type=float, required=True)
    parser.add_argument("--image-size", type=int, default=32, help="of the views")
    parser.add_argument("--judged-at", type=int, default=64, help="size that evaluate.py uses")
    parser.add_argument("--store-size", type=int, default=72, help="of the pack it reads")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scratch", default="runs/lightly", help="folder for photos and state")
    args = parser.parse_args(argv)

    # ---- its networks and its loader
    scratch = Path(args.scratch)
    torch.manual_seed(args.seed)
    transform, networks, optimizer, step = lightly_learner(
        args.image_size, 1024, torch.device("cpu"), None
    )
    config = PretrainConfig(
        data=args.data, image_size=args.judged_at, store_size=args.store_size,
        view_size=args.image_size, losses="classic", batch_size=args.batch_size, seed=args.seed,
    )  # fmt: skip
    photos = open_photos(config.data, config.stored_side)  # the labels that evaluate.py will use
    folder = scratch / "photos"
    if not folder.exists():  # all of it is there, or nothing
        unpack(Path(args.data), len(photos.names), scratch / "unpacking")
        (scratch / "unpacking").rename(folder)
    loader = torch.utils.data.DataLoader(
        torchvision.datasets.ImageFolder(folder, transform), args.batch_size,
        shuffle=True, drop_last=True, num_workers=0,
    )  # fmt: skip

    # ---- train until the time is spent, through restarts
    spent, steps, state = 0.0, 0, scratch / "state.pt"
    if state.exists():
        content = torch.load(state, weights_only=True)
        spent, steps = content["spent"], content["steps"]
        networks.load_state_dict(content["networks"])
        optimizer.load_state_dict(content["optimizer"])
        torch.manual_seed(args.seed + steps)
    begin, losses = time.process_time() - spent, []
    endless = cycle(loader)
    while spent < 60 * args.cpu_minutes:
        losses.append(step(next(endless)))
        steps += 1
        spent = time.process_time() - begin
        if steps % 50 == 0:
            print(f"step {steps}, {spent / 60:.1f} minutes, "
                  f"loss {torch.stack(losses).mean():.3f}", flush=True)  # fmt: skip
            losses = []
            content = {"networks": networks.state_dict(), "optimizer": optimizer.state_dict()}
            checkpoint.save(state, "lightly", content | {"spent": spent, "steps": steps})

    # ---- the encoder
    checkpoint.save(args.out, checkpoint.ENCODER, {
        "encoder": torchvision_weights(networks["online"][0]),
        "arch": "resnet18", "stem": "imagenet",
        "image_size": args.judged_at, "mean": config.mean, "std": config.std,
        "config": {**vars(config), "epochs": steps * args.batch_size // len(photos.names)},
        "data_fingerprint": photos.fingerprint,
    })  # fmt: skip
    images = steps * args.batch_size
    print(json.dumps({
        "steps": steps, "images": images, "epochs": round(images / len(photos.names), 2),
        "cpu_minutes": round(spent / 60, 1), "images_per_second": round(images / spent, 1),
        **versions(),
    }))  # fmt: skip


def torchvision_weights(backbone: torch.nn.Sequential) -> dict[str, torch.Tensor]:
    """Give the state of a Sequential of torchvision's ResNet-18 the names of torchvision.

    The Sequential holds the children of the ResNet, without the last.
    """
    names = [name for name, _ in torchvision.models.resnet18().named_children()]
    weights = {}
    for key, value in backbone.state_dict().items():
        index, _, rest = key.partition(".")
        weights[f"{names[int(index)]}.{rest}"] = value.clone()
    return weights


if __name__ == "__main__":
    sys.exit(main())
