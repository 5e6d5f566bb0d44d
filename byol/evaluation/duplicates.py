"""Find photos that are there twice: re-encoded, resized, mirrored or cropped.

The encoder proposes: the nearest neighbours of each photo. Pixels decide: two photos agree if a
region of one, as it is or mirrored, correlates with the whole of the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from byol.evaluation.features import Standardise
from byol.evaluation.similarity import nearest
from byol.views.render import lie_transposed

AGREEMENT = 0.96  # correlation from which two photos are the same
CANDIDATES = 20  # neighbours of each photo that are compared by their pixels
SIDE = 16  # pixels of the descriptor of a region
SCALES = (1.0, 0.9, 0.8, 0.7)  # sides of the regions, as a share of the photo's
STEP = 0.025  # between regions, as a share of the photo's side
BATCH = 256  # photos at a time


@dataclass
class Copy:
    """A photo of a group: its row, the row that it agrees with most, and how much (0..1)."""

    row: int
    like: int
    agreement: float


def find_groups(photos, features: Tensor, widths: list[int], threshold: float) -> list[list[Copy]]:
    """Find groups of the same photo, the largest group first.

    photos: with `images` and `digests`. features: (N, width), blocks of `widths` side by side.
    Photos that agree at `threshold` or more are of one group, and so is what agrees with one of
    them. Files of the same bytes agree by 1.
    """
    pairs = [
        *same_bytes(photos.digests[:]),
        *_pairs(photos.images, photos.sizes, features, widths, threshold),
    ]
    best: dict[int, Copy] = {}
    for one, other, agreement in pairs:
        for row, like in ((one, other), (other, one)):
            if row not in best or best[row].agreement < agreement:
                best[row] = Copy(row, like, agreement)
    groups = connected((one, other) for one, other, _ in pairs)
    return [[best[row] for row in group] for group in groups]


def _pairs(
    images, sizes: np.ndarray, features: Tensor, widths: list[int], threshold: float
) -> Iterator[tuple[int, int, float]]:
    """Yield the pairs whose pixels agree, (row, row, agreement)."""
    blocks = Standardise(features, widths)(features).split(widths, dim=1)
    joint = torch.cat([F.normalize(block, dim=1) for block in blocks], dim=1)
    itself = torch.arange(len(joint), device=joint.device)[:, None].expand(-1, 2)
    _, candidates = nearest(joint, joint, min(CANDIDATES, len(joint) - 1), itself)
    candidates = candidates.cpu()
    agreement = agreements(images, sizes, candidates)
    for row, place in (agreement >= threshold).nonzero().tolist():
        yield row, int(candidates[row, place]), min(float(agreement[row, place]), 1.0)


def same_bytes(digests: np.ndarray) -> Iterator[tuple[int, int, float]]:
    """Yield the pairs of the first of equal rows and each other one. digests: uint8 (N, 32)."""
    first: dict[bytes, int] = {}
    for row, digest in enumerate(digests):
        one = first.setdefault(digest.tobytes(), row)
        if one != row:
            yield one, row, 1.0


def connected(pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Join pairs that share a row into sorted groups, the largest first."""
    group_of: dict[int, list[int]] = {}
    for one, other in pairs:
        small, large = sorted((group_of.setdefault(r, [r]) for r in (one, other)), key=len)
        if small is not large:
            large += small
            group_of.update(dict.fromkeys(small, large))
    groups = {id(group): sorted(group) for group in group_of.values()}.values()
    return sorted(groups, key=lambda group: (-len(group), group))


def windows(stored: int, side: float) -> Tensor:
    """Build the matrix that averages a line of pixels in each window of this side.

    side: as a share of the line, which has `stored` pixels. Windows lie STEP apart, and each has
    SIDE cells. Returns (windows, SIDE, stored); each cell's weights add up to 1.
    """
    count = round((1 - side) / STEP) + 1
    start = torch.arange(count, dtype=torch.float64)[:, None] * STEP
    edges = (start + side * torch.arange(SIDE + 1) / SIDE) * stored  # (windows, SIDE + 1)
    low, high = edges[:, :-1, None], edges[:, 1:, None]
    pixel = torch.arange(stored)
    overlap = torch.minimum(high, pixel + 1) - torch.maximum(low, pixel)
    return (overlap.clamp_min(0) / (high - low)).float()


def describe(grey: Tensor, side: float = 1.0) -> Tensor:
    """Describe all regions of this side of grey photos (N, S, S): (N, regions, SIDE**2).

    A descriptor has mean 0 and length 1, so the product of two is the correlation of their pixels.
    A flat region gives zeros.
    """
    line = windows(grey.shape[-1], side).to(grey)  # (W, SIDE, S)
    cells = torch.einsum("vis,nst,wjt->nvwij", line, grey, line).flatten(3).flatten(1, 2)
    return F.normalize(cells - cells.mean(2, keepdim=True), dim=2, eps=1.0)


def upright(images: np.ndarray, sizes: np.ndarray) -> Tensor:
    """Make grey squares (N, H, H), upright, of stored photos, uint8 (N, 3, H, W).

    In a store that is no square, photos that are taller than wide lie transposed.
    """
    grey = torch.from_numpy(images).float().mean(1)
    height, width = grey.shape[1:]
    if height == width:
        return grey
    grey = F.interpolate(grey[:, None], (height, height), mode="area")[:, 0]
    turned = torch.from_numpy(lie_transposed(sizes, (height, width)))
    return torch.where(turned[:, None, None], grey.mT, grey)


def agreements(images, sizes: np.ndarray, candidates: Tensor) -> Tensor:
    """Compare each photo by its pixels with its candidates.

    images: uint8 (N, 3, H, W), read by slices. sizes: (N, 2), the photos' own heights and widths.
    candidates: int64 (N, K), rows of other photos.
    Returns (N, K): the highest correlation of a region of the photo with the whole of the
    candidate, as it is or mirrored.
    """

    def grey(at: int) -> Tensor:
        return upright(images[at : at + BATCH], sizes[at : at + BATCH])

    starts = range(0, len(images), BATCH)
    whole = torch.cat([describe(grey(at))[:, 0] for at in starts])  # (N, 256)
    best = torch.empty(candidates.shape)
    for at in starts:
        some, others = grey(at), whole[candidates[at : at + BATCH]]  # (B, K, 256)
        mirrored = others.unflatten(2, (SIDE, SIDE)).flip(3).flatten(2)
        views = torch.cat([describe(some, side) for side in SCALES], dim=1)  # (B, R, 256)
        scores = [views @ each.transpose(1, 2) for each in (others, mirrored)]  # (B, R, K)
        best[at : at + BATCH] = torch.maximum(*scores).amax(1)
    return best


def pair_agreements(photos, pairs: np.ndarray) -> np.ndarray:
    """Compare pairs of photos, int64 (P, 2), by their pixels, as `agreements` does: (P,).

    A region of either is compared with the whole of the other.
    """
    found = np.empty(len(pairs))
    for at in range(0, len(pairs), BATCH):
        some = pairs[at : at + BATCH]
        both = [upright(photos.images[rows], photos.sizes[rows]) for rows in some.T]
        scores = []
        for one, other in (both, both[::-1]):
            views = torch.cat([describe(one, side) for side in SCALES], dim=1)  # (B, R, 256)
            for whole in (other, other.flip(2)):
                scores.append((views @ describe(whole).mT).amax((1, 2)))
        found[at : at + BATCH] = torch.stack(scores).amax(0)
    return found
