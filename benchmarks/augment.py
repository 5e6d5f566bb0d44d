"""How fast are the random views? Prints one JSON line.

    python -m benchmarks.augment --image-size 150 --store-size 180 --batch 64

Times both views of a recipe as `byol.views` makes them; as torchvision's transforms make them from
one PIL image after another; and as those do with PIL's own blur (three box blurs) in place of
torchvision's. They take turns (A B C A B C ...) and medians are reported. The PIL rows use one
core, so compare at `--threads 1`. The images are smooth noise, or the photos of `--data`.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import PIL
import torch
import torchvision
from PIL import Image, ImageFilter
from torchvision import transforms

from benchmarks.common import now, versions
from byol.command_line import command
from byol.config import PretrainConfig
from byol.hardware.batches import Batch
from byol.hardware.device import pick_device
from byol.views.augment import TwoViews
from byol.views.draws import SIGMA
from byol.views.recipes import RECIPES, View
from data import open_photos

MEAN, STD = PretrainConfig().mean, PretrainConfig().std


def pil_blur(sigma: tuple[float, float]) -> Callable[[Image.Image], Image.Image]:
    """Build PIL's Gaussian blur with a random sigma."""
    return lambda image: image.filter(ImageFilter.GaussianBlur(random.uniform(*sigma)))


def pil_view(view: View, side: int, blur_by_pil: bool) -> transforms.Compose:
    """Build the same row of the recipe out of torchvision's transforms, for a PIL image."""
    jitter = transforms.ColorJitter(view.brightness, view.contrast, view.saturation, view.hue)
    sigma = tuple(limit * side / 224 for limit in SIGMA)
    if blur_by_pil:
        blur = pil_blur(sigma)
    else:
        blur = transforms.GaussianBlur(side // 10 // 2 * 2 + 1, sigma)
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(
                side, view.crop_scale, view.crop_ratio, transforms.InterpolationMode.BICUBIC
            ),
            transforms.RandomHorizontalFlip(view.flip),
            transforms.RandomApply([jitter], view.jitter),
            transforms.RandomGrayscale(view.grayscale),
            transforms.RandomApply([blur], view.blur),
            transforms.RandomSolarize(128, view.solarize),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )


def make_noise(count: int, side: int) -> tuple[torch.Tensor, np.ndarray]:
    """Make smooth random images (count, 3, side, side) uint8, and their sizes."""
    coarse = torch.rand(count, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    images = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic")
    return images.clamp(0, 1).mul(255).to(torch.uint8), np.full((count, 2), side)


def read_photos(data: str, count: int, side: int) -> tuple[torch.Tensor, np.ndarray]:
    """Read the first photos of a data set, as they are packed, and their sizes."""
    photos = open_photos(data, side)
    rows = np.arange(count) % len(photos.images)
    return torch.as_tensor(photos.images[rows]), np.asarray(photos.sizes)[rows]


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image-size", type=int, default=150)
    parser.add_argument("--store-size", type=int, default=180)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--recipe", choices=RECIPES, default="photos")
    parser.add_argument("--data", help="a data set to take photos from; default: noise")
    parser.add_argument("--threads", type=int, default=1, help="that byol.views may use")
    parser.add_argument("--device", default="cpu", help="where byol.views works")
    args = parser.parse_args(argv)

    torch.manual_seed(0)
    device = pick_device(args.device)
    side, count = args.image_size, args.batch
    if args.data:
        images, sizes = read_photos(args.data, count, args.store_size)
    else:
        images, sizes = make_noise(count, args.store_size)
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    batch = Batch(images.to(device), sizes, np.arange(count))
    two_views = TwoViews(RECIPES[args.recipe], side, MEAN, STD, seed=0)

    def run_ours(step: int) -> None:
        torch.set_num_threads(args.threads)
        two_views(batch, step)
        now(device)  # waits

    def run_pil(views: list[transforms.Compose], _step: int) -> None:
        torch.set_num_threads(1)
        for view in views:
            torch.stack([view(picture) for picture in pictures])

    contestants = {"views_per_second": run_ours}
    for name, blur_by_pil in (("pil", False), ("pil_own_blur", True)):
        views = [pil_view(view, side, blur_by_pil) for view in RECIPES[args.recipe]]
        contestants[f"views_per_second_{name}"] = partial(run_pil, views)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for step in range(args.rounds + 1):
        for name, make_views in contestants.items():
            begin = time.perf_counter()
            make_views(step)
            if step:  # the first round warms up
                seconds[name].append(time.perf_counter() - begin)
    rates = {name: 2 * count / statistics.median(times) for name, times in seconds.items()}
    our_rate, *pil_rates = rates.values()
    result = {
        **{name: round(rate, 1) for name, rate in rates.items()},
        "ratio_to_pil": round(our_rate / pil_rates[0], 2),
        "ratio_to_pil_own_blur": round(our_rate / pil_rates[1], 2),
        "recipe": args.recipe,
        "data": args.data or "noise",
        "image_size": side,
        "store_size": args.store_size,
        "batch": count,
        "rounds": args.rounds,
        "threads": args.threads,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torchvision": torchvision.__version__,
        "pillow": PIL.__version__,
        **versions(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    sys.exit(main())
