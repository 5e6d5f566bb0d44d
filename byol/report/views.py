"""Photos with the views that the network sees of them: `views.png`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from byol.report.canvas import Canvas, enlarged
from byol.report.gallery import Shown
from byol.report.mosaic import thumbnails
from byol.report.pictures import plt, save_picture

CELL, GAP, MARGIN = 128, 8, 12  # pixels
LABELS, TITLE = 104, 40  # room for words, on the left and at the top


def draw_views(photos: list[np.ndarray], pairs: np.ndarray, title: str) -> plt.Figure:
    """Draw a column for each photo: the photo, then view 1 and view 2 of each epoch.

    photos: uint8 (h, w, 3) each, at most `CELL` large. pairs: uint8 (epochs, 2, P, S, S, 3).
    """
    lines = [("photo", photos)]
    for pair in pairs:
        lines += [(f"view {view}", views) for view, views in enumerate(pair, 1)]
    parts = 3 * GAP  # between the photo and each pair
    height = TITLE + len(lines) * (CELL + GAP) + len(pairs) * parts + MARGIN
    canvas = Canvas(height, LABELS + len(photos) * (CELL + GAP) + MARGIN)
    canvas.write(title, MARGIN, MARGIN, size=10, weight="bold")
    top = TITLE
    for number, (name, pictures) in enumerate(lines):
        top += parts if number % 2 else 0
        if number % 2:
            canvas.write(f"epoch {number // 2 + 1}", MARGIN, top + 4, weight="bold")
        canvas.write(name, MARGIN, top + CELL // 2, va="center")
        for column, picture in enumerate(pictures):
            shown = picture if number == 0 else enlarged(picture, CELL)
            canvas.put(shown, LABELS + column * (CELL + GAP), top, cell=CELL)
        top += CELL + GAP
    return canvas.figure()


def show_views(path: Path, photos, views, config) -> Shown:
    """Write the picture, and say what it shows.

    views: have `rows` (P,) of `photos`, and `pairs` (see `draw_views`). config: a `PretrainConfig`.
    """
    side, grey = config.view_side, config.channels == "grey"
    picture, count = thumbnails(photos, views.rows), len(views.rows)
    shown = [picture(place, CELL) for place in range(count)]
    shown = [in_grey(pixels) for pixels in shown] if grey else shown
    title = f"What the network sees: views of {side} px, recipe {config.recipe}"
    title += ", in grey" if grey else ""
    save_picture(draw_views(shown, views.pairs, title), path)
    return Shown(
        path,
        "What the network sees",
        f"{count} photos with the pair of views that training makes of each in its first two "
        "epochs. The network learns that the two views of a pair show the same photo. If you "
        "yourself cannot tell it from the views, the recipe is too strong; if all views look "
        "alike, it is too weak.",
        f"{count} photos in a row. Below each are two pairs of its random views of {side} by "
        f"{side} pixels{', in grey' if grey else ''}, made by the recipe {config.recipe} with "
        f"seed {config.seed}.",
    )


def in_grey(pixels: np.ndarray) -> np.ndarray:
    """Take the colour out of a photo, uint8 (h, w, 3)."""
    return np.asarray(Image.fromarray(pixels).convert("L").convert("RGB"))
