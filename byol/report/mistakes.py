"""The most confident mistakes of a classifier, as photos: `mistakes.png`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from byol.errors import UserError, printable
from byol.report.canvas import Canvas, end_of, start_of
from byol.report.gallery import Shown
from byol.report.groups import name_of
from byol.report.mosaic import thumbnails
from byol.report.pictures import plt, save_picture

COUNT, COLUMNS = 10, 5
CELL, GAP, MARGIN, TITLE = 168, 16, 12, 68  # pixels
LINE = 20  # of a caption
WRONG = "#D55E00"


def draw_mistakes(
    mistakes: list,
    classes: list[str],
    names: dict[int, str],
    picture: Callable[[int, int], np.ndarray],
    title: str,
) -> plt.Figure:
    """Draw photos with what they are, what they were taken for and how surely.

    mistakes: have `row`, `truth`, `found` and `probability`. names: of the photos. picture: gives
    the thumbnail of a row for a side in pixels.
    """
    lines = -(-len(mistakes) // COLUMNS)
    height = CELL + 3 * LINE + GAP
    width = 2 * MARGIN + COLUMNS * (CELL + GAP) - GAP
    canvas = Canvas(TITLE + lines * height + MARGIN, width)
    canvas.write("The most confident mistakes", MARGIN, 10, size=10, weight="bold")
    canvas.write(title, MARGIN, 36, size=9)
    for number, mistake in enumerate(mistakes):
        left = MARGIN + number % COLUMNS * (CELL + GAP)
        top = TITLE + number // COLUMNS * height
        canvas.put(picture(mistake.row, CELL), left, top, cell=CELL)
        sure = f"{percent(mistake.probability)} "
        found = start_of(sure + classes[mistake.found], CELL, 9, weight="bold")
        below = top + CELL + 4
        canvas.write(found, left, below, color=WRONG, weight="bold", size=9)
        truth = start_of(f"in truth {classes[mistake.truth]}", CELL, 9)
        canvas.write(truth, left, below + LINE)
        canvas.write(end_of(names[mistake.row], CELL, 7), left, below + 2 * LINE, size=7,
                     color="0.35")  # fmt: skip
    return canvas.figure()


def show_mistakes(path: Path, mistakes: list, tested: int, summary: dict, photos) -> Shown:
    """Write the picture, and say what it shows.

    mistakes: all, the most confident first (see `draw_mistakes`). tested: how many of `photos` were
    looked at. summary: of the classifier. Raises `UserError` if there is no mistake.
    """
    if not mistakes:
        raise UserError(f"there is none among {tested:,} test photos")
    shown, classes = mistakes[:COUNT], photos.classes
    names = {one.row: photos.names[one.row] for one in shown}
    picture = thumbnails(photos, np.arange(len(photos.sizes)))
    of = name_of((summary["init"], summary["trained"]))
    what = f"{len(mistakes):,} of {tested:,} test photos are wrong"
    save_picture(draw_mistakes(shown, classes, names, picture, f"{what}: {of}"), path)
    told = "; ".join(
        f"a photo of {printable(classes[one.truth])} taken for {printable(classes[one.found])}, "
        f"{percent(one.probability)}"
        for one in shown
    )
    caption = (
        f"{what} by {of} ({summary['tested_on']}); these {len(shown)} are the surest. Orange is "
        "what it was taken for, with the probability; below is what it is by its label. Look for "
        "wrong labels, for two things on one photo, and for what the mistakes have in common."
    )
    return Shown(path, "The most confident mistakes", caption, f"{told}.")


def percent(probability: float) -> str:
    """Write a probability; 100 % only if it is 1."""
    return f"{min(100 * probability, 99.9 if probability < 1 else 100):.1f} %"
