"""Which classes a classifier takes for which: `confusion.png`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from byol.errors import UserError, printable
from byol.report.canvas import rgb
from byol.report.gallery import Shown
from byol.report.groups import name_of, with_random
from byol.report.pictures import plt, save_picture
from byol.report.style import plain

MOST_CLASSES = 20  # that are shown
MOST_FIGURES = 12  # classes, up to which each cell has its figure
MOST_BESIDE = 4  # classes, up to which matrices stand beside each other
NAME = 18  # letters of a class
RIGHT, WRONG = "#0072B2", "#D55E00"
LIGHT = 0.85  # share of blue up to which black is read on it


def confusion_of(runs: list[dict]) -> np.ndarray:
    """Add up the confusion matrices of runs that differ in their seeds: int64 (classes, classes).

    Raises `UserError` if one of them has none, as those of earlier versions.
    """
    total = 0
    for run in runs:
        summary, classes = run["summary"], len(run["summary"]["classes"])
        try:
            counts = np.array(summary["confusion"], dtype=np.int64)
            whole = counts.shape == (classes, classes) and counts.min() >= 0 and counts.any()
        except (KeyError, ValueError, TypeError, OverflowError):
            whole = False
        if not whole:
            raise UserError(f"{run['name']} has no confusion matrix; run it again with --overwrite")
        total = total + counts
    return total


def most_confused(counts: np.ndarray, most: int = MOST_CLASSES) -> list[int]:
    """Pick the classes that take part in the most errors, as many as are shown, in their order."""
    errors = counts - np.diag(np.diag(counts))
    order = (-(errors.sum(0) + errors.sum(1))).argsort(kind="stable")
    return sorted(order[:most].tolist())


def gathered(counts: np.ndarray, shown: list[int]) -> np.ndarray:
    """Take the lines of the classes that are shown: (shown, shown).

    If there are other classes, a last column has what was taken for one of them.
    """
    lines = counts[shown]
    table = lines[:, shown]
    if len(shown) == len(counts):
        return table
    return np.column_stack([table, lines.sum(1) - table.sum(1)])


def draw_confusion(
    matrices: dict[str, np.ndarray], classes: list[str], images: list[int]
) -> plt.Figure:
    """Draw a matrix for each classifier, {heading: counts (classes, classes)}, in % of each line.

    images: how many of each class were tested. Right is blue, wrong is orange; the classes shown
    are those that the last matrix confuses most. Large matrices stand one below the other.
    """
    shown = most_confused(list(matrices.values())[-1])
    names = [_short(classes[place]) for place in shown]
    told = [f"{name} ({images[place]:,})" for name, place in zip(names, shown, strict=True)]
    if len(shown) < len(classes):
        names.append(f"{len(classes) - len(shown):,} others")
    few = len(names) <= MOST_FIGURES
    wide = len(names) <= MOST_BESIDE
    side = 2.8 + 0.1 * len(names) if wide else 5.2
    shape = (1, len(matrices)) if wide else (len(matrices), 1)
    longest = 0.09 * max(map(len, told))  # inches
    size = (0.6 + longest + side * shape[1], 1.2 + (side if wide else 5.6) * shape[0])
    figure, grid = plt.subplots(*shape, figsize=size, layout="constrained", squeeze=False)
    for axes, (heading, matrix) in zip(grid.flat, matrices.items(), strict=True):
        table = gathered(matrix, shown)
        shares = table / np.maximum(matrix[shown].sum(1, keepdims=True), 1)
        axes.imshow(_colours(shares))
        axes.set_title(plain(heading), fontsize=11)
        level = max(map(len, names)) * len(names) < 30
        turned = {} if level else {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
        axes.set_xticks(range(len(names)), names, fontsize=10, **turned)
        axes.set_yticks(range(len(told)), told, fontsize=10)
        axes.set_xlabel("taken for", fontsize=10)
        for line, column in np.ndindex(*shares.shape) if few else ():
            light = shares[line, column] <= LIGHT or line != column
            axes.text(column, line, f"{100 * shares[line, column]:.0f}", ha="center", va="center",
                      color="black" if light else "white", fontsize=10)  # fmt: skip
        axes.set_xticks(np.arange(len(names) + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(len(told) + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="white", lw=1.5)
        axes.tick_params(which="both", length=0)
        axes.spines[:].set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel("true class (photos)", fontsize=10)
    for axes in grid[:, 1:].flat:
        axes.set_yticks([])
    unit = "figures are" if few else "the darker the more"
    figure.suptitle(f"What is taken for what ({unit} % of a true class)", fontsize=11)
    return figure


def show_confusion(path: Path, groups: dict) -> Shown:
    """Write the picture of the best classifiers and of random weights, and say what it shows.

    groups: {(init, trained): runs}. Raises `UserError` if a run has no confusion matrix.
    """
    beside = with_random(groups)
    matrices = {name_of(group): confusion_of(groups[group]) for group in beside}
    summary = groups[beside[-1]][0]["summary"]
    classes, tested_on = summary["classes"], summary["tested_on"]
    counts = np.array(summary["confusion"]).sum(1)
    times = max(1, round(counts.sum() / max(1, summary["test_images"])))  # of cross-validation
    images = (counts // times).tolist()
    save_picture(draw_confusion(matrices, classes, images), path)
    told = []
    for heading, counts in matrices.items():
        shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
        errors = shares - np.diag(np.diag(shares))
        true, found = np.unravel_index(errors.argmax(), errors.shape)
        told.append(
            f"{heading}: {100 * np.trace(counts) / counts.sum():.1f} % right; the most frequent "
            f"error is {printable(classes[true])} taken for {printable(classes[found])}, "
            f"{errors[true, found]:.1f} % of that class"
        )
    more = (
        f" The {MOST_CLASSES} classes with the most errors are shown."
        if len(classes) > MOST_CLASSES
        else ""
    )
    caption = (
        f"Each line is a true class, each column what it is taken for ({tested_on}). Blue is "
        f"right, orange is wrong; figures are % of the true class.{more}"
    )
    return Shown(path, "What is taken for what", caption, ". ".join(told) + ".")


def _colours(shares: np.ndarray) -> np.ndarray:
    """Give each cell its colour: (lines, columns, 3) in 0..1."""
    right = np.eye(*shares.shape, dtype=bool)[..., None]
    full = np.where(right, rgb(RIGHT), rgb(WRONG)) / 255
    deep = 0.04 + 0.96 * shares[..., None] ** 0.7  # also rare errors are seen
    return 1 - deep * (1 - full)


def _short(name: str) -> str:
    name = printable(name)
    return plain(name if len(name) <= NAME else name[: NAME - 1] + "…")
