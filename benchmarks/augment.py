"""How fast are the random views? Prints one JSON line.

    python benchmarks/augment.py --image-size 150 --store-size 180 --batch 64

Times both views of a recipe as `byol.augment` makes them; as torchvision's transforms make them
from one PIL image after another; and as those do with PIL's own blur (three box blurs) in place of
torchvision's. They take turns (A B C A B C ...) and medians are reported. The PIL rows use one
core, so compare at `--threads 1`. The images are smooth noise, or the photos of `--data`.
"""

import argparse
import json
import platform
import random
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import PIL
import torch
import torchvision
from PIL import Image, ImageFilter
from torchvision import transforms

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from byol.augment import RECIPES, SIGMA, View, two_views
from byol.errors import command

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def pil_blur(sigma: tuple[float, float]) -> Callable[[Image.Image], Image.Image]:
    """PIL's Gaussian blur with a random sigma."""
    return lambda image: image.filter(ImageFilter.GaussianBlur(random.uniform(*sigma)))


def pil_view(view: View, size: int, own_blur: bool) -> transforms.Compose:
    """The same row of the recipe as torchvision's transforms, on a PIL image."""
    jitter = transforms.ColorJitter(view.brightness, view.contrast, view.saturation, view.hue)
    sigma = tuple(limit * size / 224 for limit in SIGMA)
    if own_blur:
        blur = pil_blur(sigma)
    else:
        blur = transforms.GaussianBlur(size // 10 // 2 * 2 + 1, sigma)
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(
                size, view.crop_scale, view.crop_ratio, transforms.InterpolationMode.BICUBIC
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


def noise(count: int, size: int) -> tuple[torch.Tensor, np.ndarray]:
    """Smooth random images (count, 3, size, size) uint8, and their sizes."""
    coarse = torch.rand(count, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    images = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic")
    return images.clamp(0, 1).mul(255).to(torch.uint8), np.full((count, 2), size)


def photos(name: str, count: int, size: int) -> tuple[torch.Tensor, np.ndarray]:
    """The first photos of a data set, as its store holds them."""
    from data import open_photos

    store = open_photos(name, size)
    indices = np.arange(count) % len(store.images)
    return torch.as_tensor(store.images[indices]), np.asarray(store.sizes)[indices]


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image-size", type=int, default=150)
    parser.add_argument("--store-size", type=int, default=180)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--recipe", choices=RECIPES, default="photos")
    parser.add_argument("--data", help="a data set to take photos from; default: synthetic images")
    parser.add_argument("--threads", type=int, default=1, help="that byol.augment may use")
    parser.add_argument("--device", default="cpu", help="where byol.augment works")
    options = parser.parse_args(argv)

    torch.manual_seed(0)
    size, batch = options.image_size, options.batch
    if options.data:
        images, sizes = photos(options.data, batch, options.store_size)
    else:
        images, sizes = noise(batch, options.store_size)
    indices = np.arange(batch)
    ours = two_views(RECIPES[options.recipe], size, MEAN, STD, seed=0)
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    images = images.to(options.device)

    def run_ours(step: int) -> None:
        torch.set_num_threads(options.threads)
        for view in ours:
            view(images, sizes, indices, step)
        if images.is_cuda:
            torch.cuda.synchronize()

    def run_pil(transform: list[transforms.Compose], _step: int) -> None:
        torch.set_num_threads(1)
        for view in transform:
            torch.stack([view(picture) for picture in pictures])

    runs = {"views_per_second": run_ours}
    for name, own_blur in (("pil", False), ("pil_own_blur", True)):
        pair = [pil_view(view, size, own_blur) for view in RECIPES[options.recipe]]
        runs[f"views_per_second_{name}"] = partial(run_pil, pair)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for step in range(options.rounds + 1):
        for name, run in runs.items():
            begin = time.perf_counter()
            run(step)
            if step:  # the first round warms up
                seconds[name].append(time.perf_counter() - begin)
    rates = {name: 2 * batch / median(times) for name, times in seconds.items()}
    ours_rate, *pil_rates = rates.values()
    result = {
        **{name: round(rate, 1) for name, rate in rates.items()},
        "ratio_to_pil": round(ours_rate / pil_rates[0], 2),
        "ratio_to_pil_own_blur": round(ours_rate / pil_rates[1], 2),
        "recipe": options.recipe,
        "data": options.data or "synthetic",
        "image_size": size,
        "store_size": options.store_size,
        "batch": batch,
        "rounds": options.rounds,
        "threads": options.threads,
        "device": torch.cuda.get_device_name() if images.is_cuda else "cpu",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "pillow": PIL.__version__,
        "numpy": np.__version__,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    sys.exit(main())
