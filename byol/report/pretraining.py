"""The picture of pretraining: what trains it, and what the looks at its health saw."""

from __future__ import annotations

from byol.report.pictures import plt  # the first to import matplotlib: it sets the backend
from byol.report.style import LINES, MOST_IN_LEGEND, plain

TRAINING = {  # panels: key of a line of metrics.jsonl, words
    "loss": "loss (0 to 8 each)",
    "lr": "learning rate",
    "tau": "tau of the target",
    "spread": "spread of projections",
}
HEALTH = {
    "knn_accuracy": "kNN, labelled photos (%)",
    "linear_accuracy": "linear probe, labelled photos (%)",
    "effective_rank": "effective rank of features",
    "first_direction": "variance in one direction (%)",
    "alignment": "alignment (0: views alike)",
    "uniformity": "uniformity (0: photos alike)",
}
PERCENT = ("knn_accuracy", "linear_accuracy", "first_direction")
STYLES = ("-", "--", "-.", ":")


def training_of(rows: list[dict]) -> list[dict]:
    """Take the lines of training out of the lines of metrics.jsonl."""
    return [row for row in rows if "kind" not in row]


def health_of(rows: list[dict], of: str) -> list[dict]:
    """Take the looks at the "encoder", or at "random" weights, out of the lines."""
    return [row for row in rows if row.get("kind") == "health" and row["of"] == of]


def draw_pretraining(pretraining: dict[str, list[dict]]) -> plt.Figure:
    """Draw the lines of metrics.jsonl of each run over its epochs: of training, and of health.

    A run with several losses has a line for each of them, and for the spread of each. Dotted lines
    are random weights.
    """
    seen = {row_key for rows in pretraining.values() for row in health_of(rows, "encoder")
            for row_key in row}  # fmt: skip
    health = [key for key in HEALTH if key in seen]
    lines = 2 + (len(health) + 1) // 2
    figure, grid = plt.subplots(
        lines, 2, figsize=(9, 3 * lines), layout="constrained", sharex=True, squeeze=False
    )
    panels = iter(grid.flat)
    most = max(_draw_training(next(panels), key, pretraining) for key in TRAINING)
    for key in health:
        _draw_health(next(panels), key, pretraining)
    for unused in panels:
        unused.set_axis_off()
    for axes in grid[-1]:
        axes.set_xlabel("epoch over the unlabelled images")
    spread = grid[1, 1]
    spread.set_ylim(0, 1.1)
    spread.text(0.02, 0.04, "0 = collapsed, 1 = evenly spread", transform=spread.transAxes,
                color="0.3", fontsize=9)  # fmt: skip
    if 1 < most <= MOST_IN_LEGEND:
        grid[0, 0].legend()
    if 1 < len(pretraining) <= MOST_IN_LEGEND:
        grid[0, 1].legend()
    if health:
        grid[2, 0].plot([], [], ":", color="0.3", label="random weights")
        grid[2, 0].legend()
    few = len(pretraining) <= MOST_IN_LEGEND
    figure.suptitle("BYOL pretraining" + ("" if few else f", {len(pretraining)} runs"))
    return figure


def _draw_training(axes: plt.Axes, key: str, pretraining: dict[str, list[dict]]) -> int:
    """Draw a number of training; returns how many lines that are."""
    number = 0
    for name, lines in pretraining.items():
        rows = training_of(lines)
        parts = [column for column in rows[0] if column.startswith(f"{key}_")]
        for column in parts or [key]:
            part = column.removeprefix(key).replace("_", ", ")  # "", or ", layer2.0"
            known = [row for row in rows if column in row]
            axes.plot(
                [row["epoch"] for row in known],
                [row[column] for row in known],
                STYLES[number % 4],
                lw=1.5,
                label=plain(name + part),
                color=LINES[number % len(LINES)],
            )
            number += 1
    axes.set_ylabel(TRAINING[key])
    axes.grid(alpha=0.3)
    return number


def _draw_health(axes: plt.Axes, key: str, pretraining: dict[str, list[dict]]) -> None:
    """Draw a measure of health of each run, and as a dotted line that of random weights."""
    scale = 100 if key in PERCENT else 1
    for number, rows in enumerate(pretraining.values()):
        color = LINES[number % len(LINES)]
        looks = [row for row in health_of(rows, "encoder") if key in row]
        axes.plot(
            [row["epoch"] for row in looks], [scale * row[key] for row in looks],
            STYLES[number % 4], lw=1.5, color=color, marker="o", ms=3,
        )  # fmt: skip
        for row in health_of(rows, "random")[:1]:
            if key in row:
                axes.axhline(scale * row[key], ls=":", lw=1.5, color=color, alpha=0.8)
    axes.set_ylabel(HEALTH[key])
    axes.grid(alpha=0.3)
