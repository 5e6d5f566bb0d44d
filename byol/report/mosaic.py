"""Pictures made of photos: a map of thumbnails, and a contact sheet."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from byol.errors import printable
from byol.report.canvas import Canvas, framed, start_of
from byol.report.gallery import Shown
from byol.report.pictures import plt, save_picture
from byol.report.style import CLASSES, OTHER_CLASSES, plain
from byol.views.render import lie_transposed

MOST_CELLS = 40  # on a side of the map
BESIDE, BESIDE_CELLS = 780, 15  # side in pixels and in cells of maps beside each other
MARGIN, BETWEEN = 20, 40  # pixels
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


def thumbnails(photos, rows: np.ndarray) -> Callable[[int, int], np.ndarray]:
    """Make what gives the thumbnail of a place in `rows` of `photos`, for a side in pixels."""

    def picture(place: int, side: int) -> np.ndarray:
        row = int(rows[place])
        return thumbnail(photos.images[row], photos.sizes[row], side)

    return picture


def cells_of(places: np.ndarray, most: int = MOST_CELLS) -> tuple[np.ndarray, np.ndarray, int]:
    """Give photos at `places` (N, 2) a cell of a grid each, one photo for each cell.

    The photo that is nearest to the middle of a cell has it. If there are cells for all, the others
    go to the nearest free ones, else they are left out. `most` cells are on a side. Returns rows
    (M,), cells (M, 2) as column and line, and the side of the grid.
    """
    side = min(most, max(4, math.ceil(math.sqrt(3 * len(places)))))
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
    head = LINE + 8 + LINE * math.ceil(len(legend) / 4)
    canvas = Canvas(head + side * (thumb + GAP), side * (thumb + GAP))
    canvas.write(title, 4, 2, size=8, weight="bold")
    _put_map(canvas, (0, head), (rows, cells, side), (thumb, FRAME), picture, labels, colours)
    figure = canvas.figure()
    _add_legend(figure, legend, (6, LINE + 6), fontsize=8)
    return figure, len(rows)


def draw_maps(
    maps: dict[str, np.ndarray],
    labels: np.ndarray,
    classes: list[str],
    picture: Callable[[int, int], np.ndarray],
    title: str,
) -> plt.Figure:
    """Draw maps of the same photos beside each other. maps: {title: places (N, 2)}.

    The others are as of `draw_map`.
    """
    colours, legend = _colours(labels, classes)
    grids = [cells_of(places, BESIDE_CELLS) for places in maps.values()]
    side = grids[0][2]
    thumb = BESIDE // side - GAP
    line = 34
    head = MARGIN + line * (3 + math.ceil(len(legend) / 4))
    canvas = Canvas(head + BESIDE + MARGIN, MARGIN + (BESIDE + BETWEEN) * len(maps))
    canvas.write(title, MARGIN, MARGIN, size=14, weight="bold")
    for number, (name, grid) in enumerate(zip(maps, grids, strict=True)):
        left = MARGIN + number * (BESIDE + BETWEEN)
        canvas.write(start_of(name, BESIDE, 14), left, head - line - 6, size=14)
        _put_map(canvas, (left, head), grid, (thumb, 2 * FRAME), picture, labels, colours)
        if number:
            middle = left - BETWEEN // 2
            canvas.pixels[head - line : -MARGIN, middle - 1 : middle + 1] = 200
    figure = canvas.figure()
    _add_legend(figure, legend, (MARGIN, MARGIN + line + 8), fontsize=14)
    return figure


def show_maps(path: Path, maps: dict[str, np.ndarray], photos, rows: np.ndarray, how: str) -> Shown:
    """Write maps of `rows` of `photos` beside each other, and say what they show.

    maps: {title: places (N, 2)}. how: t-SNE or PCA.
    """
    labels, classes, picture = photos.labels[rows], photos.classes, thumbnails(photos, rows)
    title = f"{len(labels):,} photos, similar ones close together ({how})"
    save_picture(draw_maps(maps, labels, classes, picture, title), path)
    in_frames = " The frames are the classes, which the encoder was not told." if classes else ""
    caption = (
        "Photos that an encoder takes for similar lie close together; each map shows those that "
        f"lie nearest to the middle of a cell.{in_frames} Look whether what belongs together "
        "lies together, and by what photos are parted: by what is on them, or by colour and light."
    )
    counts = np.bincount(labels[labels >= 0], minlength=len(classes)).tolist()
    parts = [f"{count:,} of {printable(name)}" for name, count in zip(classes, counts, strict=True)]
    many = f" and {len(parts) - 10:,} more classes" if len(parts) > 10 else ""
    among = f": {', '.join(parts[:10])}{many}" if parts else ""
    alt = f"A map of {len(labels):,} photos by {how} for {' and for '.join(maps)}{among}."
    return Shown(path, "The map of the photos", caption, alt)


def _put_map(canvas, corner, grid, sizes, picture, labels, colours) -> None:
    """Put thumbnails into the cells of `grid` (see `cells_of`). sizes: of thumbnail and frame."""
    (left, top), (rows, cells, side), (thumb, frame) = corner, grid, sizes
    for row, (column, line) in zip(rows.tolist(), cells, strict=True):
        colour = colours.get(int(labels[row]))
        pixels = picture(row, thumb - 2 * frame if colour is not None else thumb)
        if colour is not None:
            pixels = framed(pixels, colour, frame)
        place = left + column * (thumb + GAP), top + (side - 1 - line) * (thumb + GAP)
        canvas.put(pixels, *place, cell=thumb)


def _add_legend(figure: plt.Figure, legend: list, place: tuple[int, int], fontsize: float) -> None:
    """Name the colours, at `place` in pixels from the upper left corner."""
    if legend:
        width, height = figure.get_size_inches() * figure.dpi
        figure.legend(
            handles=[plt.Rectangle((0, 0), 1, 1, color=c, label=plain(name)) for name, c in legend],
            loc="upper left", bbox_to_anchor=(place[0] / width, 1 - place[1] / height), ncols=4,
            fontsize=fontsize, frameon=False, borderaxespad=0, borderpad=0, labelspacing=0.3,
        )  # fmt: skip


def draw_sheet(rows: list[list[Picture]]) -> plt.Figure:
    """Draw a contact sheet: a line of photos with their captions for each of `rows`.

    The first `MOST_ROWS` are drawn, and of each the first `MOST_COLUMNS`.
    """
    rows = [row[:MOST_COLUMNS] for row in rows[:MOST_ROWS]]
    lines = max(len(picture.caption) for row in rows for picture in row)
    width = LARGE_THUMB + 4 * GAP
    height = width + lines * LINE
    canvas = Canvas(len(rows) * height, max(map(len, rows)) * width)
    for line, row in enumerate(rows):
        for column, picture in enumerate(row):
            left, top = column * width + GAP, line * height + GAP
            canvas.put(picture.pixels, left, top, cell=LARGE_THUMB)
            for at, text in enumerate(picture.caption):
                canvas.write(_end_of(text), left, top + LARGE_THUMB + GAP + LINE * at, size=7)
    return canvas.figure()


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


def _end_of(text: str) -> str:
    return text if len(text) <= LONGEST else "…" + text[1 - LONGEST :]
