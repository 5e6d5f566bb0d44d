"""The table of `evaluate.py`: as Markdown, as JSON, as a picture."""

from __future__ import annotations

import io
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from byol.config import FEATURES
from byol.files import write_atomically
from byol.metrics import write_json

PROTOCOLS = {"linear": "linear evaluation", "knn": "kNN", "fine-tuned": "fine-tuned"}
# Okabe and Ito's palette; hatches serve in print
STYLES = {"avgpool": ("#0072B2", ""), "combined": ("#E69F00", "//")}


@dataclass
class Cell:
    """One figure: the test accuracy, in 0..1, of each seed."""

    weights: str
    features: str
    protocol: str
    labels: str
    values: list[float] = field(default_factory=list)
    l2_strength: list[float] = field(default_factory=list)  # of linear evaluation, as chosen

    def __str__(self) -> str:
        """In per cent: the mean, and the deviation over seeds where there are several."""
        values = [100 * value for value in self.values]
        if len(values) == 1:
            return f"{values[0]:.1f}"
        return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f} ({len(values)})"


def add(
    cells: list[Cell],
    weights: str,
    features: str,
    protocol: str,
    labels: str,
    value: float,
    l2_strength: float | None = None,
) -> None:
    """Add the accuracy of one seed to its cell."""
    place = (weights, features, protocol, labels)
    for cell in cells:
        if (cell.weights, cell.features, cell.protocol, cell.labels) == place:
            break
    else:
        cell = Cell(*place)
        cells.append(cell)
    cell.values.append(value)
    if l2_strength is not None:
        cell.l2_strength.append(l2_strength)


def write(folder: Path, name: str, cells: list[Cell], about: dict) -> None:
    """Write name.md, name.json and name.png, each whole or not at all."""
    write_atomically(folder / f"{name}.md", markdown(cells, about["tested_on"]).encode())
    write_json(folder / f"{name}.json", {**about, "cells": [asdict(cell) for cell in cells]})
    save_picture(draw(cells), folder / f"{name}.png")


def remove(folder: Path, name: str) -> None:
    """Remove what `write` wrote."""
    for kind in ("md", "json", "png"):
        (folder / f"{name}.{kind}").unlink(missing_ok=True)


def plain(text: str) -> str:
    """For a picture, where dollars would set off formulas."""
    return text.replace("$", r"\$")


def save_picture(figure: plt.Figure, path: Path) -> Path:
    """Write a figure as PNG, whole or not at all, and close it."""
    blob = io.BytesIO()
    figure.savefig(blob, dpi=120, format="png")
    plt.close(figure)
    write_atomically(path, blob.getvalue())
    return path


def markdown(cells: list[Cell], tested_on: dict[str, str]) -> str:
    """A table for each label count: test accuracy in %, mean ± deviation (number of seeds).

    `tested_on`: what it was measured on, by label count.
    """
    lines = []
    found = {(c.labels, c.weights, c.features, c.protocol): str(c) for c in cells}
    for labels in dict.fromkeys(cell.labels for cell in cells):
        lines += [
            f"Test accuracy in %, {labels} labels, tested on {tested_on[labels]}:",
            "",
            f"| weights | representation | {' | '.join(PROTOCOLS.values())} |",
            "|---|---|---|---|---|",
        ]
        for weights in dict.fromkeys(cell.weights for cell in cells):
            for features in FEATURES:
                row = [found.get((labels, weights, features, p), "") for p in PROTOCOLS]
                if any(row):
                    lines.append(f"| {weights} | {features} | {' | '.join(row)} |")
        lines.append("")
    return "\n".join(lines)


def draw(cells: list[Cell]) -> plt.Figure:
    """Bars of the means, a panel for each label count and protocol; dots are the seeds."""
    counts = list(dict.fromkeys(cell.labels for cell in cells))
    order = list(dict.fromkeys(cell.weights for cell in cells))  # the same in each panel
    kinds = [k for k in PROTOCOLS if any(cell.protocol == k for cell in cells)]
    size = (4.2 * len(kinds), 3.4 * len(counts))
    figure, grid = plt.subplots(
        len(counts), len(kinds), figsize=size, layout="constrained", sharey="row", squeeze=False
    )
    for row, labels in zip(grid, counts, strict=True):
        for axes, kind in zip(row, kinds, strict=True):
            shown = [c for c in cells if (c.labels, c.protocol) == (labels, kind)]
            shown.sort(key=lambda cell: order.index(cell.weights))
            draw_panel(axes, [c for c in shown if c.features in STYLES])
            axes.set_title(f"{PROTOCOLS[kind]}, {labels} labels", fontsize=10)
        row[0].set_ylabel("test accuracy (%)")
    grid[0, 0].legend(loc="upper left", ncols=2, fontsize=9)
    return figure


def draw_panel(axes: plt.Axes, cells: list[Cell]) -> None:
    """For each weights a bar of each representation."""
    names = list(dict.fromkeys(cell.weights for cell in cells))
    for cell in cells:
        colour, hatch = STYLES[cell.features]
        alone = sum(other.weights == cell.weights for other in cells) == 1
        side = 0 if alone else 0.2 if cell.features == "combined" else -0.2
        x = names.index(cell.weights) + side
        values = [100 * value for value in cell.values]
        known = axes.get_legend_handles_labels()[1]
        axes.bar(x, statistics.mean(values), 0.38, color=colour, hatch=hatch, alpha=0.8,
                 edgecolor="white",
                 label=None if cell.features in known else cell.features)  # fmt: skip
        if len(values) > 1:
            axes.plot([x] * len(values), values, "o", color="black", ms=3, zorder=3)
        axes.text(x, max(values) + 1.2, f"{statistics.mean(values):.1f}", ha="center", fontsize=9)
    shown = [plain(name).replace(", ", ",\n") for name in names]
    axes.set_xticks(range(len(names)), shown, fontsize=9)
    axes.set_ylim(0, 112)
    axes.set_yticks(range(0, 101, 20))
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
