"""Random draws of the views: a pure function of (seed, step, photo, view), in numpy on the host."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from byol.views.recipes import View

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
    vertical_flip: np.ndarray  # (B,) bool
    quarter_turns: np.ndarray  # (B,) to the left, after the flips: 0..3


def uniforms(seed: int, step: int, photos: np.ndarray, view_index: int, count: int) -> np.ndarray:
    """Draw (B, count) floats in [0, 1): each a hash of its key (splitmix64, chained)."""

    def mix(z: np.ndarray) -> np.ndarray:
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))

    def key(value: int) -> np.ndarray:
        return np.array([value % 2**64], dtype=np.uint64)

    golden = key(0x9E3779B97F4A7C15)
    state = mix(key(seed) + golden)
    for value in (key(step), key(view_index), np.asarray(photos).astype(np.uint64)):
        state = mix(mix(state ^ value) + golden)
    column = np.arange(1, count + 1, dtype=np.uint64) * golden
    return (mix(state[:, None] + column) >> np.uint64(11)) * 2.0**-53


def draw(
    view: View, view_index: int, seed: int, step: int, photos: np.ndarray, sizes: np.ndarray
) -> Draws:
    """Draw view `view_index` of `photos` (B,), whose heights and widths are `sizes` (B, 2)."""
    sizes = np.asarray(sizes, dtype=np.int64)
    u = uniforms(seed, step, photos, view_index, 2 * ATTEMPTS + 16)
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
        vertical_flip=u[:, 13] < view.vertical_flip,
        quarter_turns=np.where(
            u[:, 14] < view.quarter_turn, 1 + (u[:, 15] * 3).astype(np.int64), 0
        ),
    )


def draw_crop(
    view: View,
    sizes: np.ndarray,
    area: np.ndarray,
    ratio: np.ndarray,
    top: np.ndarray,
    left: np.ndarray,
) -> np.ndarray:
    """Draw a box for each photo as torchvision's RandomResizedCrop does, from uniforms in [0, 1).

    area, ratio: (B, ATTEMPTS). Returns (B, 4): top, left, height, width.
    """
    height, width = sizes[:, 0], sizes[:, 1]
    low, high = view.crop_scale
    box_area = (height * width)[:, None] * (low + (high - low) * area)
    low, high = np.log(view.crop_ratio)
    aspect = np.exp(low + (high - low) * ratio)
    wide = np.rint(np.sqrt(box_area * aspect)).astype(np.int64)
    tall = np.rint(np.sqrt(box_area / aspect)).astype(np.int64)
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
