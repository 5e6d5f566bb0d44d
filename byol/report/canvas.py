"""A white picture on which photos are put and words are written, pixel by pixel."""

from __future__ import annotations

import warnings
from bisect import bisect_left
from collections.abc import Callable

import numpy as np
from PIL import Image

from byol.errors import printable
from byol.report.pictures import DPI, plt  # the first to import matplotlib: it sets the backend
from byol.report.style import plain

# below the line that sets the backend
from matplotlib.font_manager import FontProperties  # isort: skip
from matplotlib.textpath import TextPath  # isort: skip

PIXELS_OF_POINT = DPI / 72  # of a font size
HINTED = 1.06  # small letters are drawn a little wider than their outlines
LEAST_LETTER = 0.25  # width in points, of a font size of 1


class Canvas:
    """Pixels, uint8 (height, width, 3), and texts over them."""

    def __init__(self, height: int, width: int):
        self.pixels = np.full((height, width, 3), 255, np.uint8)
        self._texts: list[tuple[int, int, str, dict]] = []

    def put(self, pixels: np.ndarray, left: int, top: int, cell: int = 0) -> None:
        """Put a photo, uint8 (h, w, 3), at its place; in the middle of a `cell` of this side."""
        height, width = pixels.shape[:2]
        top += max(0, cell - height) // 2
        left += max(0, cell - width) // 2
        self.pixels[top : top + height, left : left + width] = pixels

    def write(self, text: str, left: int, top: int, size: float = 9, **style) -> None:
        """Write a text; `size` in points, `style` as of matplotlib's text."""
        self._texts.append((left, top, text, {"fontsize": size, "va": "top", **style}))

    def figure(self) -> plt.Figure:
        """Make the figure, which shows each pixel as one pixel."""
        height, width = self.pixels.shape[:2]
        figure = plt.figure(figsize=(width / DPI, height / DPI), dpi=DPI)
        figure.figimage(self.pixels, origin="upper")
        for left, top, text, style in self._texts:
            figure.text(left / width, 1 - top / height, plain(text), **style)
        return figure


def rgb(colour: str) -> list[int]:
    """Read "#RRGGBB"."""
    return [int(colour[at : at + 2], 16) for at in (1, 3, 5)]


def framed(pixels: np.ndarray, colour: str, width: int) -> np.ndarray:
    """Put a frame of a colour, "#RRGGBB", `width` pixels wide, around a picture."""
    height, wide = pixels.shape[:2]
    out = np.empty((height + 2 * width, wide + 2 * width, 3), np.uint8)
    out[:] = rgb(colour)
    out[width:-width, width:-width] = pixels
    return out


def enlarged(pixels: np.ndarray, side: int) -> np.ndarray:
    """Show a square picture, uint8 (S, S, 3), up to `side` pixels large.

    A smaller one is enlarged by a whole number, so that each of its pixels can be seen.
    """
    of_picture = pixels.shape[0]
    if of_picture > side:
        return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS))
    times = side // of_picture
    return pixels.repeat(times, axis=0).repeat(times, axis=1)


def start_of(text: str, width: int, size: float = 9, weight: str = "normal") -> str:
    """Cut a text so that it fits into `width` pixels."""
    return _cut(text, width, size, weight, lambda text, most: text[:most] + "…")


def end_of(text: str, width: int, size: float = 9, weight: str = "normal") -> str:
    """Cut the beginning off a text so that it fits into `width` pixels."""
    return _cut(text, width, size, weight, lambda text, most: "…" + text[-most:])


def _cut(
    text: str, width: int, size: float, weight: str, shorten: Callable[[str, int], str]
) -> str:
    """Leave out as few letters as a text needs to fit; one is left at least."""
    text = printable(text)
    most = int(width / (LEAST_LETTER * size * PIXELS_OF_POINT)) + 1
    if len(text) <= most and _width_of(text, size, weight) <= width:
        return text
    counts = range(1, min(most, len(text) - 1) + 1)  # of letters that are left
    fitting = bisect_left(
        counts, True, key=lambda count: _width_of(shorten(text, count), size, weight) > width
    )
    return shorten(text, max(1, fitting))


def _width_of(text: str, size: float, weight: str) -> float:
    """Measure how wide a text is drawn, in pixels."""
    font = FontProperties(size=size * PIXELS_OF_POINT, weight=weight)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that the font lacks `save_picture` tells
        return HINTED * TextPath((0, 0), plain(text), prop=font).get_extents().x1
