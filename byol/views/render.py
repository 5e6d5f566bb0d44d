"""Rendering of drawn views, in batches on the device of the photos."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from byol.hardware.device import to_device, workers
from byol.views import image_ops
from byol.views.draws import CONTRAST, HUE, SATURATION, Draws


@dataclass(frozen=True)
class Plan:
    """Draws as the operations want them: `numbers` for the device, the rest for the host."""

    numbers: np.ndarray  # (B, columns as in WIDTHS) float32
    blur: np.ndarray  # (B,) bool
    hue_slot: np.ndarray  # (B,) before which blend the hue turns: 0..3; NO_HUE, NO_JITTER
    grayscale: np.ndarray  # (B,) bool
    solarize: np.ndarray  # (B,) bool
    transposed: np.ndarray  # (B,) bool: in the end rows become columns

    def take(self, which: np.ndarray | slice) -> Plan:
        return Plan(*(getattr(self, field.name)[which] for field in fields(self)))


NO_JITTER, NO_HUE = -1, 4
BLENDS = 4  # three of the jitter in their drawn order, then grayscale
WIDTHS = {  # how many columns of `numbers` hold what
    **{
        "place": 1,
        "start": 2,
        "box_step": 2,
        "first": 2,
        "last": 2,
    },  # the box along rows and columns
    **{"keep": BLENDS, "to_grey": BLENDS, "to_mean": BLENDS},  # the coefficients of each blend
    **{"turn": 1, "sigma": 1, "lift": 1, "transposed": 1},
}


def lie_transposed(sizes: np.ndarray, stored: tuple[int, int]) -> np.ndarray:
    """Tell which photos of `sizes` (N, 2), heights and widths, a store holds transposed: bool (N,).

    Those that are taller than wide, if the `stored` height and width differ.
    """
    return (sizes[:, 0] > sizes[:, 1]) & (stored[0] != stored[1])


def plan_views(draws: Draws, stored: tuple[int, int], view_side: int) -> Plan:
    """Work out the numbers of each image; images that need the same operations come together.

    `stored` is the height and width into which each photo was squeezed. If they differ, a photo
    that is taller than wide was transposed first, and its two axes change places in the plan.
    """
    count, (height, width) = len(draws.crop), stored
    turned = lie_transposed(draws.sizes, stored)
    sides = np.where(turned[:, None], (width, height), (height, width))  # of the photo's own axes
    start = draws.crop[:, :2] * sides / draws.sizes
    extent = draws.crop[:, 2:] * sides / draws.sizes
    first, last = np.floor(start + 1e-6), np.ceil(start + extent - 1e-6)
    # a quarter turn to the left mirrors left and right, then rows become columns
    up_down = draws.vertical_flip ^ np.isin(draws.quarter_turns, (2, 3))
    mirrored = np.stack([up_down, draws.flip ^ np.isin(draws.quarter_turns, (1, 2))], axis=1)
    transposed = turned ^ (draws.quarter_turns % 2 == 1)
    box_step = np.where(mirrored, -extent, extent) / view_side
    start = np.where(mirrored, start + extent, start)
    axes = np.where(turned[:, None], (1, 0), (0, 1))
    start, box_step, first, last = (
        np.take_along_axis(numbers, axes, axis=1) for numbers in (start, box_step, first, last)
    )

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
    sigma = draws.sigma * view_side / 224
    lift = np.where(draws.solarize, 1.0, 3.0)
    rest = np.stack([turn, sigma, lift, transposed], axis=1)
    place = np.arange(count)[:, None]
    columns = [place, start, box_step, first, last, keep, to_grey, to_mean, rest]
    plan = Plan(
        numbers=np.concatenate(columns, axis=1).astype(np.float32),
        blur=draws.sigma > 0,
        hue_slot=hue_slot,
        grayscale=draws.grayscale,
        solarize=draws.solarize,
        transposed=transposed,
    )
    return plan.take(np.lexsort((plan.solarize, plan.grayscale, plan.hue_slot, plan.blur)))


def chunks(plan: Plan, size: int) -> Iterator[slice]:
    """Cut the plan into chunks of `size`; none mixes images with and without blur."""
    count, sharp = len(plan.blur), int((~plan.blur).sum())
    for begin, end in ((0, sharp), (sharp, count)):
        yield from (slice(at, min(at + size, end)) for at in range(begin, end, size))


def chunk_size(view_side: int, count: int, device: torch.device) -> int:
    """Tell how many images to render at a time: on a CPU as many as its caches hold, else all."""
    if device.type == "cpu":
        return max(1, 90_000 // view_side**2)
    return count


def render(
    images: Tensor,
    draws: Draws,
    view_side: int,
    mean: Sequence[float],
    std: Sequence[float],
    chunk: int | None = None,
) -> Tensor:
    """Make the drawn views. images: uint8 (B, 3, H, W), the photos as they are stored.

    Returns float32 (B, 3, view_side, view_side), normalised, in channels_last memory (but on MPS).
    Renders `chunk` images at a time, those that need the same operations together. Every decision
    is made from `draws` on the host, so the host never waits for an accelerator.
    """
    count, device = len(images), images.device
    plan = plan_views(draws, images.shape[2:], view_side)
    numbers = to_device(plan.numbers, device)
    out = torch.empty((count, view_side, view_side, 3), dtype=torch.float32, device=device)
    inference = torch.is_inference_mode_enabled()

    def fill(rows: slice) -> None:  # sets the modes itself, as each thread has its own
        float32 = torch.autocast(device.type, enabled=False)
        with torch.inference_mode(inference), torch.no_grad(), float32:
            place = numbers[rows, 0].long()
            chosen = images.index_select(0, place)
            views = make_views(chosen, plan.take(rows), numbers[rows], view_side)
            for channel in range(3):
                views[:, :, channel].sub_(mean[channel]).div_(std[channel])
            out.index_copy_(0, place, views.transpose(2, 3).contiguous())

    todo = chunks(plan, chunk or chunk_size(view_side, count, device))
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    map_all = map if threads == 1 else workers(os.getpid(), threads).map
    for _ in map_all(fill, todo):
        pass
    views = out.permute(0, 3, 1, 2)
    return views.contiguous() if device.type == "mps" else views  # see `prepare`


def make_views(images: Tensor, plan: Plan, numbers: Tensor, view_side: int) -> Tensor:
    """Apply the chain up to the clip to one chunk. Returns (n, view_side, 3, view_side) in 0..1."""
    names = dict(zip(WIDTHS, numbers.split(list(WIDTHS.values()), dim=1), strict=True))
    count, _, height, width = images.shape
    box = [names[name] for name in ("start", "box_step", "first", "last")]
    if height == width:
        rows, columns = image_ops.resize_matrices(*box, height, view_side).unbind(1)
    else:
        rows, columns = (
            image_ops.resize_matrices(*(numbers[:, axis] for numbers in box), side, view_side)
            for axis, side in enumerate((height, width))
        )
    x = images.new_empty((count, height, 3, width), dtype=torch.float32)
    x.copy_(images.transpose(1, 2))
    x = image_ops.transform(x, rows, columns).div_(255).clamp_(0, 1)
    if plan.transposed.any():
        x = image_ops.transpose(x, names["transposed"][:, 0] > 0)

    for slot in range(BLENDS):
        turning = np.flatnonzero(plan.hue_slot == slot)  # neighbours, as the plan is sorted
        if len(turning):
            same = slice(turning[0], turning[-1] + 1)
            image_ops.shift_hue_(x[same], names["turn"][same, 0])
        wanted = plan.grayscale if slot == BLENDS - 1 else plan.hue_slot != NO_JITTER
        if wanted.any():
            blend = (names[name][:, slot] for name in ("keep", "to_grey", "to_mean"))
            image_ops.blend_(x, *blend)
    if plan.blur.any():
        kernel = image_ops.blur_matrices(names["sigma"][:, 0], view_side // 10 // 2, view_side)
        x = image_ops.transform(x, kernel, kernel)
    if plan.solarize.any():
        image_ops.solarize_(x, names["lift"][:, 0])
    return x.clamp_(0, 1)
