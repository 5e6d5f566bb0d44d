"""Random views: recipes, the random draws of each image, and the chain that applies them.

The order is the paper's (arXiv 2006.07733, appendix B): crop and flip, colour jitter in random
order, grayscale, blur, solarize, clip to 0..1, normalise. Each operation is torchvision's. The
authors' own code differs in two: its brightness adds a constant, and its contrast turns about the
mean of each channel; here brightness multiplies and contrast turns about the mean grey.

Every draw belongs to one image and is a pure function of (seed, step, index, view number), so a
view does not depend on how a batch is split or ordered.
"""

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from byol import image_ops


@dataclass(frozen=True)
class View:
    """One row of a recipe: ranges, and the probability of each operation."""

    crop_scale: tuple[float, float] = (0.08, 1.0)  # of the photo's area
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width / height, log-uniform
    flip: float = 0.5  # probability
    jitter: float = 0.0  # probability of the next four, together and in random order
    brightness: float = 0.4  # factor 0.6..1.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1  # turn of -0.1..0.1 of the circle
    grayscale: float = 0.0  # probability
    blur: float = 0.0  # probability
    solarize: float = 0.0  # probability


# fmt: off
RECIPES: dict[str, tuple[View, View]] = {
    # The paper's two views.
    "photos": (
        View(jitter=0.8, grayscale=0.2, blur=1.0, solarize=0.0),
        View(jitter=0.8, grayscale=0.2, blur=0.1, solarize=0.2),
    ),
    # The same without blur, for images of about 32 pixels, which have no detail to spare.
    "small": (
        View(jitter=0.8, grayscale=0.2, solarize=0.0),
        View(jitter=0.8, grayscale=0.2, solarize=0.2),
    ),
    # Short runs on small photos: colour is the easiest identity to keep, so more of it goes.
    "short": (
        View((0.2, 1.0), jitter=0.8, saturation=0.4, hue=0.2, grayscale=0.4, solarize=0.0),
        View((0.2, 1.0), jitter=0.8, saturation=0.4, hue=0.2, grayscale=0.4, solarize=0.2),
    ),
    # Drawings: flat colours say little about what is drawn, outlines say much.
    "cartoons": (
        View(crop_scale=(0.2, 1.0), jitter=0.8, hue=0.5, grayscale=0.5),
        View(crop_scale=(0.2, 1.0), jitter=0.8, hue=0.5, grayscale=0.5),
    ),
}
# fmt: on

CROP_AND_FLIP = View(crop_scale=(0.25, 1.0))  # for supervised fine-tuning

SIGMA = (0.1, 2.0)  # blur, in pixels of a 224-pixel image
ATTEMPTS = 10  # at a crop that fits, before the central one
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
ORDERS = np.array(list(itertools.permutations((BRIGHTNESS, CONTRAST, SATURATION, HUE))))


@dataclass(frozen=True)
class Draws:
    """What was drawn for each of B images; numpy, on the host."""

    sizes: np.ndarray  # (B, 2) the photo's height, width
    crop: np.ndarray  # (B, 4) top, left, height, width in the photo's pixels
    flip: np.ndarray  # (B,) bool
    jitter: np.ndarray  # (B,) bool
    order: np.ndarray  # (B, 4) a row of ORDERS: which adjustment comes first, second, ...
    factors: np.ndarray  # (B, 4) brightness, contrast, saturation, hue
    grayscale: np.ndarray  # (B,) bool
    sigma: np.ndarray  # (B,) of the blur, in pixels of a 224-pixel image; 0 is no blur
    solarize: np.ndarray  # (B,) bool


def uniforms(seed: int, step: int, indices: np.ndarray, number: int, count: int) -> np.ndarray:
    """(B, count) floats in [0, 1), each a hash of its key (splitmix64's finaliser, chained)."""

    def mix(z: np.ndarray) -> np.ndarray:
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))

    def key(value: int) -> np.ndarray:
        return np.array([value % 2**64], dtype=np.uint64)

    golden = key(0x9E3779B97F4A7C15)
    state = mix(key(seed) + golden)
    for value in (key(step), key(number), np.asarray(indices).astype(np.uint64)):
        state = mix(mix(state ^ value) + golden)
    column = np.arange(1, count + 1, dtype=np.uint64) * golden
    return (mix(state[:, None] + column) >> np.uint64(11)) * 2.0**-53


def draw(
    view: View, number: int, seed: int, step: int, indices: np.ndarray, sizes: np.ndarray
) -> Draws:
    """Draw view `number` of photos `indices` (B,), whose heights and widths are `sizes` (B, 2)."""
    sizes = np.asarray(sizes, dtype=np.int64)
    u = uniforms(seed, step, indices, number, 2 * ATTEMPTS + 14)
    area, ratio, u = np.split(u, [ATTEMPTS, 2 * ATTEMPTS], axis=1)
    crop = draw_crop(view, sizes, area, ratio, u[:, 0], u[:, 1])
    spread = np.array([view.brightness, view.contrast, view.saturation, view.hue])
    factors = np.array([1.0, 1.0, 1.0, 0.0]) + spread * (2 * u[:, 4:8] - 1)
    factors[:, :HUE] = factors[:, :HUE].clip(min=0)
    low, high = SIGMA
    return Draws(
        sizes=sizes,
        crop=crop,
        flip=u[:, 2] < view.flip,
        jitter=u[:, 3] < view.jitter,
        order=ORDERS[(u[:, 8] * len(ORDERS)).astype(np.int64)],
        factors=factors,
        grayscale=u[:, 9] < view.grayscale,
        sigma=np.where(u[:, 10] < view.blur, low + (high - low) * u[:, 11], 0.0),
        solarize=u[:, 12] < view.solarize,
    )


def draw_crop(
    view: View,
    sizes: np.ndarray,
    area: np.ndarray,
    ratio: np.ndarray,
    top: np.ndarray,
    left: np.ndarray,
) -> np.ndarray:
    """torchvision's RandomResizedCrop.get_params for each photo, from uniforms in [0, 1).

    area, ratio: (B, ATTEMPTS). Returns (B, 4): top, left, height, width.
    """
    height, width = sizes[:, 0], sizes[:, 1]
    low, high = view.crop_scale
    target = (height * width)[:, None] * (low + (high - low) * area)
    low, high = np.log(view.crop_ratio)
    aspect = np.exp(low + (high - low) * ratio)
    wide = np.rint(np.sqrt(target * aspect)).astype(np.int64)
    tall = np.rint(np.sqrt(target / aspect)).astype(np.int64)
    fits = (wide > 0) & (wide <= width[:, None]) & (tall > 0) & (tall <= height[:, None])
    rows, first = np.arange(len(sizes)), fits.argmax(1)
    tall, wide, fits = tall[rows, first], wide[rows, first], fits.any(1)
    # Fallback: the largest central crop whose ratio is allowed.
    low, high = view.crop_ratio
    tall = np.where(fits, tall, np.minimum(height, np.rint(width / low))).astype(np.int64)
    wide = np.where(fits, wide, np.minimum(width, np.rint(height * high))).astype(np.int64)
    top = np.where(fits, np.floor(top * (height - tall + 1)), (height - tall) // 2)
    left = np.where(fits, np.floor(left * (width - wide + 1)), (width - wide) // 2)
    return np.stack([top, left, tall, wide], axis=1).astype(np.int64)


@dataclass(frozen=True)
class Plan:
    """Draws as the operations want them: `numbers` for the device, the rest for the host."""

    numbers: np.ndarray  # (B, columns as in WIDTHS) float32
    blur: np.ndarray  # (B,) bool
    hue_slot: np.ndarray  # (B,) before which blend the hue turns: 0..3; NO_HUE, NO_JITTER
    grayscale: np.ndarray  # (B,) bool
    solarize: np.ndarray  # (B,) bool

    def take(self, which: np.ndarray | slice) -> "Plan":
        return Plan(*(getattr(self, field.name)[which] for field in fields(self)))


NO_JITTER, NO_HUE = -1, 4
BLENDS = 4  # three of the jitter in their drawn order, then grayscale
WIDTHS = {  # how many columns of `numbers` hold what
    **{"place": 1, "start": 2, "step": 2, "first": 2, "last": 2},  # the box along rows and columns
    **{"keep": BLENDS, "to_grey": BLENDS, "to_mean": BLENDS},  # the coefficients of each blend
    **{"turn": 1, "sigma": 1, "lift": 1},
}


def plan_views(draws: Draws, store: int, target: int) -> Plan:
    """Work out the numbers of each image; images that need the same operations come together.

    `store` is the side of the stored squares into which each photo was squeezed.
    """
    count = len(draws.crop)
    start = draws.crop[:, :2] * store / draws.sizes
    extent = draws.crop[:, 2:] * store / draws.sizes
    first, last = np.floor(start + 1e-6), np.ceil(start + extent - 1e-6)
    mirrored = np.stack([np.zeros(count, bool), draws.flip], axis=1)
    step = np.where(mirrored, -extent, extent) / target
    start = np.where(mirrored, start + extent, start)

    kinds = draws.order[draws.order != HUE].reshape(count, BLENDS - 1)
    keep, to_grey, to_mean = np.ones((count, BLENDS)), *np.zeros((2, count, BLENDS))
    factors = np.take_along_axis(draws.factors, kinds, axis=1)
    keep[:, :-1] = np.where(draws.jitter[:, None], factors, 1.0)
    to_grey[:, :-1] = np.where(kinds == SATURATION, 1 - keep[:, :-1], 0.0)
    to_mean[:, :-1] = np.where(kinds == CONTRAST, 1 - keep[:, :-1], 0.0)
    keep[draws.grayscale, -1], to_grey[draws.grayscale, -1] = 0.0, 1.0

    turn = draws.factors[:, HUE]
    hue_slot = np.where(turn != 0, draws.order.argmax(1), NO_HUE)
    hue_slot = np.where(draws.jitter, hue_slot, NO_JITTER)
    sigma = draws.sigma * target / 224
    lift = np.where(draws.solarize, 1.0, 3.0)
    rest = np.stack([turn, sigma, lift], axis=1)
    place = np.arange(count)[:, None]
    columns = [place, start, step, first, last, keep, to_grey, to_mean, rest]
    plan = Plan(
        numbers=np.concatenate(columns, axis=1).astype(np.float32),
        blur=draws.sigma > 0,
        hue_slot=hue_slot,
        grayscale=draws.grayscale,
        solarize=draws.solarize,
    )
    return plan.take(np.lexsort((plan.solarize, plan.grayscale, plan.hue_slot, plan.blur)))


def pieces(plan: Plan, size: int) -> Iterator[slice]:
    """Cut the plan into pieces of `size`, none with images both with and without blur."""
    count, sharp = len(plan.blur), int((~plan.blur).sum())
    for begin, end in ((0, sharp), (sharp, count)):
        yield from (slice(at, min(at + size, end)) for at in range(begin, end, size))


def piece_size(image_size: int, count: int, device: torch.device) -> int:
    """How many images to take at a time: on a CPU as many as its caches hold, else all."""
    if device.type == "cpu":
        return max(1, 90_000 // image_size**2)
    return count


def apply(
    images: Tensor,
    draws: Draws,
    image_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    piece: int | None = None,
) -> Tensor:
    """Make the drawn views. images: uint8 (B, 3, S, S), the photos squeezed into squares.

    Returns float32 (B, 3, image_size, image_size), normalised, in channels_last memory. Images are
    taken `piece` at a time, those that need the same operations together. Every decision is made
    from `draws` on the host, so an accelerator is never waited for.
    """
    count, device = len(images), images.device
    plan = plan_views(draws, images.shape[-1], image_size)
    numbers = image_ops.to_device(plan.numbers, device)
    out = torch.empty((count, image_size, image_size, 3), dtype=torch.float32, device=device)
    inference = torch.is_inference_mode_enabled()

    def fill(part: slice) -> None:  # sets the modes itself, as each thread has its own
        plain = torch.autocast(device.type, enabled=False)
        with torch.inference_mode(inference), torch.no_grad(), plain:
            place = numbers[part, 0].long()
            chosen = images.index_select(0, place)
            views = make_views(chosen, plan.take(part), numbers[part], image_size)
            for channel in range(3):
                views[:, :, channel].sub_(mean[channel]).div_(std[channel])
            out.index_copy_(0, place, views.transpose(2, 3).contiguous())

    parts = pieces(plan, piece or piece_size(image_size, count, device))
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    run = map if threads == 1 else image_ops.workers(os.getpid(), threads).map
    for _ in run(fill, parts):
        pass
    return out.permute(0, 3, 1, 2)


def make_views(images: Tensor, plan: Plan, numbers: Tensor, target: int) -> Tensor:
    """The chain up to the clip, for one piece. Returns (n, target, 3, target) in 0..1."""
    names = dict(zip(WIDTHS, numbers.split(list(WIDTHS.values()), dim=1), strict=True))
    store = images.shape[-1]
    box = (names[name] for name in ("start", "step", "first", "last"))
    matrices = image_ops.resize_matrices(*box, store, target)
    x = images.new_empty((len(images), store, 3, store), dtype=torch.float32)
    x.copy_(images.transpose(1, 2))
    x = image_ops.transform(x, matrices[:, 0], matrices[:, 1]).div_(255).clamp_(0, 1)

    for slot in range(BLENDS):
        turning = np.flatnonzero(plan.hue_slot == slot)  # neighbours, as the plan is sorted
        if len(turning):
            run = slice(turning[0], turning[-1] + 1)
            image_ops.shift_hue_(x[run], names["turn"][run, 0])
        wanted = plan.grayscale if slot == BLENDS - 1 else plan.hue_slot != NO_JITTER
        if wanted.any():
            blend = (names[name][:, slot] for name in ("keep", "to_grey", "to_mean"))
            image_ops.blend_(x, *blend)
    if plan.blur.any():
        kernel = image_ops.blur_matrices(names["sigma"][:, 0], target // 10 // 2, target)
        x = image_ops.transform(x, kernel, kernel)
    if plan.solarize.any():
        image_ops.solarize_(x, names["lift"][:, 0])
    return x.clamp_(0, 1)


class Augment:
    """One view of a recipe: a function of a batch and the step, without a state."""

    def __init__(
        self,
        view: View,
        number: int,
        image_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int,
    ):
        """`number` tells the views of one image apart; `mean` and `std` are per channel of 0..1."""
        self.view, self.number, self.seed = view, number, seed
        self.image_size, self.mean, self.std = image_size, tuple(mean), tuple(std)

    def __call__(self, images: Tensor, sizes: np.ndarray, indices: np.ndarray, step: int) -> Tensor:
        """Views of uint8 `images` (B, 3, S, S): float32 (B, 3, image_size, image_size).

        sizes: (B, 2) the photos' own heights and widths. indices: (B,) their numbers in the data.
        """
        draws = draw(self.view, self.number, self.seed, step, indices, sizes)
        return apply(images, draws, self.image_size, self.mean, self.std)


def changed(
    recipe: tuple[View, View],
    crop_min: float | None = None,
    jitter_strength: float = 1.0,
    grayscale: float | None = None,
    solarize: float | None = None,
) -> tuple[View, View]:
    """The recipe with other crops, weaker or stronger jitter, grayscale, or solarizing (view two).

    `jitter_strength` multiplies the ranges of brightness, contrast, saturation and hue; the hue
    turns by half the circle at most.
    """
    first, second = (
        replace(
            view,
            crop_scale=view.crop_scale if crop_min is None else (crop_min, view.crop_scale[1]),
            brightness=jitter_strength * view.brightness,
            contrast=jitter_strength * view.contrast,
            saturation=jitter_strength * view.saturation,
            hue=min(jitter_strength * view.hue, 0.5),
            grayscale=view.grayscale if grayscale is None else grayscale,
        )
        for view in recipe
    )
    return first, second if solarize is None else replace(second, solarize=solarize)


def two_views(
    recipe: tuple[View, View],
    image_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    seed: int,
) -> tuple[Augment, Augment]:
    """The two views of a recipe, which draw independently."""
    first, second = recipe
    return (
        Augment(first, 0, image_size, mean, std, seed),
        Augment(second, 1, image_size, mean, std, seed),
    )


def central_view(
    images: Tensor,
    sizes: np.ndarray,
    image_size: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> Tensor:
    """The view for evaluation: the photo's largest central square, resized, normalised."""
    sizes = np.asarray(sizes, dtype=np.int64)
    side = sizes.min(axis=1, keepdims=True)
    corner = np.rint((sizes - side) / 2).astype(np.int64)  # torchvision's center_crop
    never = np.zeros(len(sizes), dtype=bool)
    draws = Draws(
        sizes=sizes,
        crop=np.concatenate([corner, side, side], axis=1),
        flip=never,
        jitter=never,
        order=np.tile(ORDERS[0], (len(sizes), 1)),
        factors=np.tile([1.0, 1.0, 1.0, 0.0], (len(sizes), 1)),
        grayscale=never,
        sigma=np.zeros(len(sizes)),
        solarize=never,
    )
    return apply(images, draws, image_size, mean, std)
