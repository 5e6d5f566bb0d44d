"""Pictures made of photos: a map of thumbnails, and a contact sheet."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from byol.report.pictures import DPI, plt  # the first to import matplotlib: it sets the backend
from byol.report.style import CLASSES, OTHER_CLASSES, plain
from byol.views.render import lie_transposed

MOST_CELLS = 40  # on a side of the map
THUMB, FRAME, GAP = 48, 3, 2  # pixels
LARGE_THUMB = 144  # of a contact sheet
LINE = 18  # pixels of a line of text
LONGEST = 21  # characters of a name, of which the end is shown
MOST_ROWS, MOST_COLUMNS = 30, 8  # of a contact sheet


@dataclass
class Picture:
    """A photo of a contact sheet: uint8 (H, W, 3), and a line or two of text."""

    pixels: np.ndarray
    caption: list[str]


def thumbnail(stored: np.ndarray, size: np.ndarray, side: int) -> np.ndarray:
    """Scale a stored photo, uint8 (3, H, W), to fit into `side` pixels in its own shape `size`.

    size: height and width. In a store that is no square, a photo that is taller than wide lies
    transposed. Returns uint8 (h, w, 3), upright.
    """
    if lie_transposed(np.asarray(size)[None], stored.shape[1:])[0]:
        stored = stored.transpose(0, 2, 1)
    height, width = (max(1, round(side * int(n) / max(size))) for n in size)
    image = Image.fromarray(np.ascontiguousarray(stored.transpose(1, 2, 0)))
    return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))


def cells_of(places: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Give photos at `places` (N, 2) a cell of a grid each, one photo for each cell.

    The photo that is nearest to the middle of a cell has it. If there are cells for all, the others
    go to the nearest free ones, else they are left out. Returns rows (M,), cells (M, 2) as column
    and line, and the side of the grid.
    """
    side = min(MOST_CELLS, max(4, math.ceil(math.sqrt(3 * len(places)))))
    low, high = np.quantile(places, [0.01, 0.99], axis=0)
    where = np.clip((places - low) / np.where(high > low, high - low, 1), 0, 1) * (side - 1)
    wanted = np.rint(where).astype(np.int64)
    free = np.ones((side, side), bool)
    rows, cells, late = [], [], []
    for row in np.abs(where - wanted).max(axis=1).argsort(kind="stable").tolist():
        column, line = wanted[row]
        if free[column, line]:
            free[column, line] = False
            rows.append(row)
            cells.append((column, line))
        else:
            late.append(row)
    for row in late if len(places) <= side**2 else ():
        open_cells = np.argwhere(free)
        column, line = open_cells[np.square(open_cells - where[row]).sum(1).argmin()]
        free[column, line] = False
        rows.append(row)
        cells.append((column, line))
    return np.array(rows), np.array(cells), side


def draw_map(
    places: np.ndarray,
    picture: Callable[[int, int], np.ndarray],
    labels: np.ndarray,
    classes: list[str],
    title: str,
) -> tuple[plt.Figure, int]:
    """Draw thumbnails at their `places` (N, 2), framed in the colour of their class.

    picture: gives the thumbnail of a row for a side in pixels. labels: (N,), -1 for no class.
    Returns the figure, and how many photos are drawn.
    """
    rows, cells, side = cells_of(places)
    colours, legend = _colours(labels, classes)
    thumb = THUMB if side > 16 else 2 * THUMB
    cell = thumb + GAP
    head = LINE + 8 + LINE * math.ceil(len(legend) / 4)
    canvas = np.full((head + side * cell, side * cell, 3), 255, np.uint8)
    for row, (column, line) in zip(rows.tolist(), cells, strict=True):
        colour = colours.get(int(labels[row]))
        room = thumb - 2 * FRAME if colour is not None else thumb
        pixels = picture(row, room)
        if colour is not None:
            pixels = _framed(pixels, colour)
        top = head + (side - 1 - line) * cell + (thumb - pixels.shape[0]) // 2
        left = column * cell + (thumb - pixels.shape[1]) // 2
        canvas[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    figure = _figure(canvas)
    _write(figure, canvas, 4, 2, title, fontsize=8, weight="bold")
    if legend:
        figure.legend(
            handles=[plt.Rectangle((0, 0), 1, 1, color=c, label=plain(name)) for name, c in legend],
            loc="upper left", bbox_to_anchor=(0, 1 - LINE / canvas.shape[0]), ncols=4, fontsize=8,
            frameon=False, borderaxespad=0, labelspacing=0.3,
        )  # fmt: skip
    return figure, len(rows)


def draw_sheet(rows: list[list[Picture]]) -> plt.Figure:
    """Draw a contact sheet: a line of photos with their captions for each of `rows`.

    The first `MOST_ROWS` are drawn, and of each the first `MOST_COLUMNS`.
    """
    rows = [row[:MOST_COLUMNS] for row in rows[:MOST_ROWS]]
    lines = max(len(picture.caption) for row in rows for picture in row)
    width = LARGE_THUMB + 4 * GAP
    height = width + lines * LINE
    canvas = np.full((len(rows) * height, max(map(len, rows)) * width, 3), 255, np.uint8)
    captions = []
    for line, row in enumerate(rows):
        for column, picture in enumerate(row):
            high, wide = picture.pixels.shape[:2]
            top = line * height + (LARGE_THUMB - high) // 2 + GAP
            left = column * width + (LARGE_THUMB - wide) // 2 + GAP
            canvas[top : top + high, left : left + wide] = picture.pixels
            captions += [
                (column * width + GAP, line * height + LARGE_THUMB + 2 * GAP + LINE * at, text)
                for at, text in enumerate(picture.caption)
            ]
    figure = _figure(canvas)
    for left, top, text in captions:
        _write(figure, canvas, left, top, _end_of(text), fontsize=7)
    return figure


def _colours(labels: np.ndarray, classes: list[str]) -> tuple[dict, list[tuple[str, str]]]:
    """Give the largest classes a colour each, and the others one: label -> colour; the legend."""
    counts = np.bincount(labels[labels >= 0], minlength=len(classes))
    order = [label for label in (-counts).argsort(kind="stable").tolist() if counts[label]]
    shown = sorted(order[: len(CLASSES)])
    colours = dict.fromkeys(order, OTHER_CLASSES)
    colours |= dict(zip(shown, CLASSES, strict=False))
    legend = [(_end_of(classes[label]), colours[label]) for label in shown]
    if len(order) > len(shown):
        legend.append((f"{len(order) - len(shown):,} more classes", OTHER_CLASSES))
    return colours, legend


def _framed(pixels: np.ndarray, colour: str) -> np.ndarray:
    """Put a frame of a colour, "#RRGGBB", around a picture."""
    height, width = pixels.shape[:2]
    framed = np.empty((height + 2 * FRAME, width + 2 * FRAME, 3), np.uint8)
    framed[:] = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    framed[FRAME:-FRAME, FRAME:-FRAME] = pixels
    return framed


def _figure(canvas: np.ndarray) -> plt.Figure:
    """Make a figure that shows each pixel of uint8 (H, W, 3) as one pixel."""
    figure = plt.figure(figsize=(canvas.shape[1] / DPI, canvas.shape[0] / DPI), dpi=DPI)
    figure.figimage(canvas, origin="upper")
    return figure


def _write(figure: plt.Figure, canvas: np.ndarray, left: int, top: int, text: str, **style) -> None:
    """Write a text at pixels from the upper left corner."""
    at = left / canvas.shape[1], 1 - top / canvas.shape[0]
    figure.text(*at, plain(text), va="top", **style)


def _end_of(text: str) -> str:
    return text if len(text) <= LONGEST else "…" + text[1 - LONGEST :]
