"""Pictures: losses, accuracies, and the bars of the table of `evaluate.py`."""

from __future__ import annotations

import io
import os
import statistics
import sys
import warnings
from pathlib import Path

os.environ["MPLBACKEND"] = "Agg"  # a notebook asks for one that may not be there
import matplotlib.pyplot as plt
import numpy as np

from byol.files import write_atomically
from byol.report.style import (
    REPRESENTATIONS,
    SELF_TRAINED,
    TRAINED,
    accuracy_name,
    kinds_of,
    plain,
    styles_of,
)
from byol.report.table import PROTOCOLS, Cell

DPI = 120


def save_picture(figure: plt.Figure, path: Path) -> Path:
    """Write a figure as PNG, or as JPEG if `path` ends so, whole or not at all, and close it."""
    kind = "jpeg" if path.suffix.lower() in (".jpg", ".jpeg") else "png"
    blob = io.BytesIO()
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        figure.savefig(blob, dpi=DPI, format=kind)
    plt.close(figure)
    if any("missing from" in str(warning.message) for warning in raised):  # the font
        print(
            f"{path.name}: the font of the pictures lacks letters of some names; they are drawn as "
            "boxes",
            file=sys.stderr,
        )
    write_atomically(path, blob.getvalue())
    return path


def data_name(summary: dict) -> str:
    return plain(Path(summary["data"]).name)


def draw_losses(groups: dict, trained: str) -> plt.Figure:
    """Training loss over epochs of each start: mean over seeds, band from min to max."""
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for init, style in styles_of(init for init, _ in groups).items():
        group = groups.get((init, trained))
        if not group:
            continue
        length = min(len(run["rows"]) for run in group)
        losses = np.array([[row["loss"] for row in run["rows"][:length]] for run in group])
        epochs = [row["epoch"] for row in group[0]["rows"][:length]]
        label = plain(style["label"]) + (f" ({len(group)} seeds)" if len(group) > 1 else "")
        axes.plot(
            epochs, losses.mean(0), style["linestyle"], color=style["color"], label=label, lw=2
        )
        axes.fill_between(
            epochs, losses.min(0), losses.max(0), color=style["color"], alpha=0.2, lw=0
        )
    summary = next(g for (_, of), g in groups.items() if of == trained)[0]["summary"]
    axes.set_title(
        f"Training loss, {TRAINED[trained]} ({data_name(summary)}, {summary['labels']} labels)"
    )
    over = "unlabelled" if trained == SELF_TRAINED else "labelled"
    axes.set_xlabel(f"epoch over the {over} images")
    axes.set_ylabel("cross-entropy (nats)")
    axes.set_ylim(bottom=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def draw_accuracy(groups: dict) -> plt.Figure:
    """Test accuracy of each start and of what learned: bars of the mean, a dot for each seed."""
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    styles = styles_of(init for init, _ in groups)
    width = 0.8 / len(styles)
    kinds = kinds_of(groups)
    for number, (init, style) in enumerate(styles.items()):
        for place, trained in enumerate(kinds):
            group = groups.get((init, trained))
            x = place + (number - (len(styles) - 1) / 2) * width
            if not group:
                axes.text(x, 2, "no run", ha="center", color="0.4")
                continue
            values = 100 * np.array([run["summary"]["test_accuracy"] for run in group])
            label = plain(style["label"]) if place == 0 else None
            axes.bar(x, values.mean(), 0.9 * width, color=style["color"], hatch=style["hatch"],
                     alpha=0.75, edgecolor="white", label=label)  # fmt: skip
            if len(values) > 1:
                spread = np.linspace(-0.08, 0.08, len(values))
                axes.plot(x + spread, values, "o", color="black", ms=4, zorder=3)
            axes.text(x, values.max() + 1.5, f"{values.mean():.1f}", ha="center", weight="bold")
    summary = next(iter(groups.values()))[0]["summary"]
    chance = 100 * summary.get("chance", 1 / len(summary["classes"]))  # earlier versions: even
    axes.axhline(chance, color="0.3", ls=":", lw=1)
    axes.text(len(kinds) - 0.45, chance + 0.8, "chance", ha="right", color="0.3", fontsize=9)
    axes.set_xlim(-0.6, len(kinds) - 0.4)
    axes.set_ylim(0, 122)  # room for the legend above a bar of 100
    axes.set_yticks(range(0, 101, 20))
    axes.set_xticks(range(len(kinds)), [TRAINED[trained] for trained in kinds])
    axes.set_ylabel(f"{accuracy_name(summary)} (%)")
    seeds = max(len(g) for g in groups.values())
    axes.set_title(
        f"{data_name(summary)}, {summary['labels']} labels, {summary['image_size']} px"
        + (f"; dots are {seeds} seeds" if seeds > 1 else "")
    )
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.legend(handles, labels, loc="upper left", ncols=2)
    return figure


def draw_table(cells: list[Cell]) -> plt.Figure:
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
            draw_panel(axes, [c for c in shown if c.representation in REPRESENTATIONS])
            axes.set_title(f"{PROTOCOLS[kind]}, {labels} labels", fontsize=10)
        row[0].set_ylabel("test accuracy (%)")
    grid[0, 0].legend(loc="upper left", ncols=2, fontsize=9)
    return figure


def draw_panel(axes: plt.Axes, cells: list[Cell]) -> None:
    """Draw a bar of each representation for each of the weights."""
    names = list(dict.fromkeys(cell.weights for cell in cells))
    for cell in cells:
        colour, hatch = REPRESENTATIONS[cell.representation]
        alone = sum(other.weights == cell.weights for other in cells) == 1
        side = 0 if alone else 0.2 if cell.representation == "combined" else -0.2
        x = names.index(cell.weights) + side
        values = [100 * value for value in cell.values]
        known = axes.get_legend_handles_labels()[1]
        axes.bar(x, statistics.mean(values), 0.38, color=colour, hatch=hatch, alpha=0.8,
                 edgecolor="white",
                 label=None if cell.representation in known else cell.representation)  # fmt: skip
        if len(values) > 1:
            axes.plot([x] * len(values), values, "o", color="black", ms=3, zorder=3)
        axes.text(x, max(values) + 1.2, f"{statistics.mean(values):.1f}", ha="center", fontsize=9)
    shown = [plain(name).replace(", ", ",\n") for name in names]
    axes.set_xticks(range(len(names)), shown, fontsize=9)
    axes.set_ylim(0, 112)
    axes.set_yticks(range(0, 101, 20))
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
