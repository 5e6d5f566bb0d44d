"""Photos with the photos that an encoder takes for the most similar: `neighbours.png`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from byol.report.canvas import Canvas, framed, start_of
from byol.report.gallery import Shown
from byol.report.mosaic import thumbnails
from byol.report.pictures import plt, save_picture

THUMB, FRAME, GAP, MARGIN = 84, 6, 4, 12  # pixels
CELL = THUMB + 2 * FRAME
BETWEEN, TITLE = 28, 72
WRONG, RIGHT = "#D55E00", "#FFFFFF"


def draw_neighbours(
    queries: list[int],
    found: dict[str, np.ndarray],
    labels: np.ndarray,
    classes: list[str],
    picture: Callable[[int, int], np.ndarray],
    title: str,
) -> plt.Figure:
    """Draw a line for each query: the photo, then its neighbours by each encoder.

    queries: places in `labels`. found: {heading: int (N, COUNT)}, the neighbours of each place.
    labels: (N,), -1 for no class. picture: gives the thumbnail of a place for a side in pixels.
    A neighbour of another class than the query's is framed, and crossed in a corner.
    """
    count = next(iter(found.values())).shape[1]
    names = 22 if classes else 0  # of the classes, a line below the query
    line = CELL + GAP + names
    block = count * (CELL + GAP)
    left = MARGIN + CELL
    width = left + len(found) * (BETWEEN + block) + MARGIN
    canvas = Canvas(TITLE + len(queries) * line + MARGIN, width)
    canvas.write(title, MARGIN, 10, size=10, weight="bold")
    canvas.write("photo", MARGIN + FRAME, TITLE - 26)
    for number, heading in enumerate(found):
        at = left + BETWEEN + number * (BETWEEN + block)
        canvas.write(heading, at + FRAME, TITLE - 26, size=9)
        canvas.pixels[TITLE - 24 : -MARGIN, at - BETWEEN // 2 - 1 : at - BETWEEN // 2 + 1] = 200
    for number, query in enumerate(queries):
        top = TITLE + number * line
        canvas.put(picture(query, THUMB), MARGIN, top, cell=CELL)
        if labels[query] >= 0:
            name = start_of(classes[labels[query]], CELL + BETWEEN // 2, 8)
            canvas.write(name, MARGIN + FRAME, top + CELL, size=8)
        for block_number, places in enumerate(found.values()):
            at = left + BETWEEN + block_number * (BETWEEN + block)
            for place in places[query].tolist():
                wrong = is_wrong(labels, query, place)
                pixels = framed(picture(place, THUMB), WRONG if wrong else RIGHT, FRAME)
                canvas.put(pixels, at, top, cell=CELL)
                if wrong:
                    name = start_of(classes[labels[place]], CELL, 8)
                    canvas.write(name, at + FRAME, top + CELL, size=8, color=WRONG)
                at += CELL + GAP
    return canvas.figure()


def is_wrong(labels: np.ndarray, query: int, place: int) -> bool:
    """Tell whether a neighbour is known to be of another class."""
    return labels[query] >= 0 and labels[place] >= 0 and labels[query] != labels[place]


def show_neighbours(
    path: Path, photos, rows: np.ndarray, queries: list[int], found: dict, chance: float | None
) -> Shown:
    """Write the picture, and say what it shows.

    rows: (N,) of `photos`, among which the neighbours are. queries: places in `rows`. found:
    {weights: neighbours}, which have `places` (N, COUNT), and `right`, their share in the right
    class. chance: that share at random. Both are None without classes.
    """
    labels, classes, picture = photos.labels[rows], photos.classes, thumbnails(photos, rows)
    found = {name: (each.places, each.right) for name, each in found.items()}
    count = next(iter(found.values()))[0].shape[1]
    headings = {
        f"{name}: {_percent(right)} right" if right is not None else name: places
        for name, (places, right) in found.items()
    }
    title = f"The {count} most similar photos among {len(labels):,}"
    title += "; errors are framed" if chance is not None else ""
    save_picture(draw_neighbours(queries, headings, labels, classes, picture, title), path)
    told = ", ".join(f"{_percent(right)} by {name}" for name, (_, right) in found.items() if right)
    what = f"{len(queries)} photos, each with the {count} photos most like it by each encoder."
    if chance is None:
        caption = (
            f"{what} Look whether they show the same thing, or only share a background or a "
            "colour. There are no two classes, so nothing is counted."
        )
        return Shown(path, "The most similar photos", caption, what)
    share = (
        f"Of the {count} neighbours of each of {len(labels):,} photos with a class, "
        f"these are of the same class: {told}; at random it would be {_percent(chance)}."
    )
    wrong = ", ".join(
        f"{sum(is_wrong(labels, q, p) for q in queries for p in places[q])} by {name}"
        for name, (places, _) in found.items()
    )
    caption = f"{what} A neighbour of another class is framed. {share}"
    alt = f"{what} Of the {count * len(queries)} neighbours shown, these are framed: {wrong}. "
    return Shown(path, "The most similar photos", caption, alt + share)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
