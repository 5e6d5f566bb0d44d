"""Tables of accuracies, as Markdown: of `evaluate.py` and of `plot_losses.py`."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from byol.config import REPRESENTATIONS
from byol.report.style import TRAINED, accuracy_name, kinds_of, styles_of

UNEVEN = 1.1  # share of the largest class against even shares, from which both are shown
PROTOCOLS = {"linear": "linear evaluation", "knn": "kNN", "fine-tuned": "fine-tuned"}


@dataclass
class Cell:
    """One figure: the test accuracy, in 0..1, of each seed."""

    weights: str
    representation: str
    protocol: str
    labels: str
    values: list[float] = field(default_factory=list)
    l2_strength: list[float] = field(default_factory=list)  # of linear evaluation, as chosen
    balanced: list[float] = field(default_factory=list)  # the mean recall, if classes are uneven
    recall: list[dict] = field(default_factory=list)  # that of each class, then

    def __str__(self) -> str:
        """Write it in per cent: the mean, and the deviation over seeds if there are several."""
        text = mean_and_deviation(self.values)
        return f"{text}; balanced {mean_and_deviation(self.balanced)}" if self.balanced else text


def mean_and_deviation(values: list[float], of: str = "") -> str:
    """Write accuracies in 0..1 in per cent: `96.8 ± 0.3 (3)`; `of` says what there are 3 of."""
    values = [100 * value for value in values]
    if len(values) == 1:
        return f"{values[0]:.1f}"
    mean, deviation = statistics.mean(values), statistics.stdev(values)
    return f"{mean:.1f} ± {deviation:.1f} ({len(values)}{of})"


def add(
    cells: list[Cell],
    weights: str,
    representation: str,
    protocol: str,
    labels: str,
    value: float,
    l2_strength: float | None = None,
    balanced: float | None = None,
    recall: dict[str, float] | None = None,
) -> None:
    """Add the accuracy of one seed to its cell, of uneven classes also the balanced one."""
    place = (weights, representation, protocol, labels)
    for cell in cells:
        if (cell.weights, cell.representation, cell.protocol, cell.labels) == place:
            break
    else:
        cell = Cell(*place)
        cells.append(cell)
    cell.values.append(value)
    if l2_strength is not None:
        cell.l2_strength.append(l2_strength)
    if balanced is not None:
        cell.balanced.append(balanced)
    if recall is not None:
        cell.recall.append(recall)


def markdown(cells: list[Cell], tested_on: dict[str, str]) -> str:
    """Write a table for each label count: test accuracy in %, mean ± deviation (count of seeds).

    `tested_on`: what it was measured on, by label count.
    """
    lines = []
    found = {(c.labels, c.weights, c.representation, c.protocol): str(c) for c in cells}
    for labels in dict.fromkeys(cell.labels for cell in cells):
        lines += [
            f"Test accuracy in %, {labels} labels, tested on {tested_on[labels]}:",
            "",
            f"| weights | representation | {' | '.join(PROTOCOLS.values())} |",
            "|---|---|---|---|---|",
        ]
        for weights in dict.fromkeys(cell.weights for cell in cells):
            for representation in REPRESENTATIONS:
                row = [found.get((labels, weights, representation, p), "") for p in PROTOCOLS]
                if any(row):
                    lines.append(f"| {weights} | {representation} | {' | '.join(row)} |")
        lines.append("")
    return "\n".join(lines)


def accuracy_table(groups: dict) -> str:
    """Write the accuracies of classifiers: in per cent, mean and standard deviation over seeds.

    groups: {(init, trained): runs} (see `read_runs`).
    """
    if not groups:
        return ""
    styles = styles_of(init for init, _ in groups)
    labels = " | ".join(style["label"] for style in styles.values())
    summaries = [run["summary"] for runs in groups.values() for run in runs]
    lines = [f"| {accuracy_name(summaries[0])}, % | {labels} |", "|---|" + "---|" * len(styles)]
    uneven = any(s.get("chance", 0) > UNEVEN / len(s["classes"]) for s in summaries)
    figures = {"test_accuracy": ""} | ({"balanced_accuracy": ", balanced"} if uneven else {})
    for trained in kinds_of(groups):
        for figure, what in figures.items():
            cells = []
            for init in styles:
                summaries = [run["summary"] for run in groups.get((init, trained), [])]
                values = [s[figure] for s in summaries if figure in s]
                cells.append(mean_and_deviation(values, " seeds") if values else "no run")
            lines.append(f"| {TRAINED[trained]}{what} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
