"""Draw what the runs show: does BYOL beat random weights?

    python plot_losses.py                 # reads runs/, writes plots/, prints the table

Reads summary.json of each classifier run, metrics.jsonl of each pretraining run, nothing else.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from byol.config import Parser
from byol.errors import UserError, command, printable
from byol.metrics import read_jsonl
from byol.report import plain, save_picture
from byol.run_folder import make_folder

# Okabe and Ito's palette, which colour-blind eyes tell apart; line and hatch serve in print
STYLES = {
    "random": {"color": "#D55E00", "linestyle": "--", "hatch": "//", "label": "random weights"},
    "byol": {"color": "#0072B2", "linestyle": "-", "hatch": "", "label": "BYOL weights"},
}
PARTS = {False: "full model", True: "frozen backbone"}
MOST_IN_LEGEND = 12
# what runs that are compared must share
SAME = ("data", "image_size", "labels", "features", "tested_on", "test_images")


@command
def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--runs", default="runs", help="folder of run folders [runs]")
    parser.add_argument("--out", default="plots", help="folder for the pictures [plots]")
    args = parser.parse_args(argv)
    runs = Path(args.runs)
    if not runs.is_dir():
        raise UserError(f"--runs: there is no folder {runs}; train_classifier.py makes one")
    out = make_folder(args.out, "--out")

    classifiers, pretraining = read_runs(runs)
    if not classifiers and not pretraining:
        raise UserError(f"{runs} holds no finished run; run train_byol.py or train_classifier.py")
    groups = defaultdict(list)  # (init, freeze) -> runs that differ in their seeds
    for run in classifiers:
        groups[run["summary"]["init"], run["summary"]["freeze"]].append(run)
    missing = [f"{i} {PARTS[f]}" for f in PARTS for i in STYLES if (i, f) not in groups]
    if missing:
        print(f"no run yet of: {', '.join(missing)}", file=sys.stderr)
    if not pretraining:
        print("no run yet of: pretraining", file=sys.stderr)

    written = []
    for freeze, name in ((False, "loss1.png"), (True, "loss2.png")):
        if any((init, freeze) in groups for init in STYLES):
            written.append(save_picture(draw_losses(groups, freeze), out / name))
    if groups:
        written.append(save_picture(draw_accuracy(groups), out / "accuracy.png"))
    if pretraining:
        written.append(save_picture(draw_pretraining(pretraining), out / "pretraining.png"))
    print(table(groups), end="")
    print("\n".join(printable(str(path)) for path in written))


def read_runs(runs: Path) -> tuple[list[dict], dict[str, list[dict]]]:
    """Classifier runs that can be compared, and the metrics of each pretraining run by name.

    Where the classifiers differ in data, size or labels, those like the newest stay.
    """
    classifiers, pretraining, damaged, unfinished = [], {}, [], []
    for folder in sorted(runs.iterdir()):
        summary = folder / "summary.json"
        try:
            if summary.is_file():
                read, rows = read_classifier(folder)
                age = summary.stat().st_mtime
                classifiers.append({"name": folder.name, "summary": read, "rows": rows, "age": age})
            elif (folder / "metrics.partial.jsonl").is_file():
                unfinished.append(folder.name)
            elif (folder / "metrics.jsonl").is_file():
                rows = read_pretraining(folder)
                pretraining.update({folder.name: rows} if rows else {})
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            damaged.append(folder.name)
    for names, why in ((damaged, "damaged, or of another program"), (unfinished, "not finished")):
        if names:
            print(f"left out, {why}: {listed(names)}", file=sys.stderr)
    if classifiers:
        newest = max(classifiers, key=lambda run: run["age"])["summary"]
        others = [r for r in classifiers if any(r["summary"][k] != newest[k] for k in SAME)]
        leave_out(classifiers, others, "other data, size, labels, features or test images")
        byol = [r for r in classifiers if r["summary"]["init"] == "byol"]
        if byol:
            file = max(byol, key=lambda run: run["age"])["summary"]["init_file"]
            others = [r for r in byol if r["summary"]["init_file"] != file]
            leave_out(classifiers, others, f"other BYOL weights than {file}")
    return classifiers, pretraining


def read_classifier(folder: Path) -> tuple[dict, list[dict]]:
    """The summary of a finished classifier run, and its rows. Raises `ValueError` and its like."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    summary.setdefault("features", "avgpool")  # runs from before there was a choice
    kinds = {"init": str, "freeze": bool, "seed": int, "classes": list, "data": str,
             "image_size": int, "labels": int, "tested_on": str, "test_images": int,
             "features": str, "init_file": str, "epochs": int}  # fmt: skip
    check(all(type(summary[key]) is kind for key, kind in kinds.items()))
    check(summary["init"] in STYLES and len(summary["classes"]) >= 2)
    check(0 <= summary["test_accuracy"] <= 1)
    rows = summary.get("curve")
    if rows is None:  # earlier versions left the rows in a file of their own
        rows = read_jsonl(folder / "metrics.jsonl")
        check(rows[-1]["loss"] == summary["train_loss"])  # else they are of another run
    check([row["epoch"] for row in rows] == list(range(1, summary["epochs"] + 1)))
    check(all(is_number(row["loss"]) for row in rows))
    return summary, rows


def read_pretraining(folder: Path) -> list[dict]:
    """The rows of a pretraining run until now. Raises `ValueError` and its like."""
    path = folder / "metrics.jsonl"
    rows = read_jsonl(path)
    lines = path.read_text(encoding="utf-8").splitlines()
    check(len(rows) >= len(lines) - 1)  # the last one may be cut off
    for row in rows:
        check({"epoch", "loss", "lr", "tau", "spread"} <= row.keys() == rows[0].keys())
        check(all(is_number(value) for value in row.values()))
    return rows


def check(condition: bool) -> None:
    if not condition:
        raise ValueError


def is_number(value: object) -> bool:
    """Whether it can be drawn."""
    return type(value) in (int, float) and abs(value) < 1e12


def listed(names: list[str], most: int = 10) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def leave_out(runs: list[dict], others: list[dict], why: str) -> None:
    """Take `others` off `runs`, and say so."""
    if others:
        print(f"left out, {why}: {listed([r['name'] for r in others])}", file=sys.stderr)
        runs[:] = [r for r in runs if r not in others]


def data_name(summary: dict) -> str:
    return plain(Path(summary["data"]).name)


def draw_losses(groups: dict, freeze: bool) -> plt.Figure:
    """Training loss over epochs, random against BYOL: mean over seeds, band from min to max."""
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for init, style in STYLES.items():
        group = groups.get((init, freeze))
        if not group:
            continue
        length = min(len(run["rows"]) for run in group)
        losses = np.array([[row["loss"] for row in run["rows"][:length]] for run in group])
        epochs = [row["epoch"] for row in group[0]["rows"][:length]]
        label = style["label"] + (f" ({len(group)} seeds)" if len(group) > 1 else "")
        axes.plot(
            epochs, losses.mean(0), style["linestyle"], color=style["color"], label=label, lw=2
        )
        axes.fill_between(
            epochs, losses.min(0), losses.max(0), color=style["color"], alpha=0.2, lw=0
        )
    summary = next(g for (_, f), g in groups.items() if f == freeze)[0]["summary"]
    axes.set_title(
        f"Training loss, {PARTS[freeze]} ({data_name(summary)}, {summary['labels']} labels)"
    )
    axes.set_xlabel("epoch over the labelled images")
    axes.set_ylabel("cross-entropy (nats)")
    axes.set_ylim(bottom=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def draw_accuracy(groups: dict) -> plt.Figure:
    """Test accuracy of the four: bars of the mean, a dot for each seed."""
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for init, style in STYLES.items():
        for place, freeze in enumerate((True, False)):
            group = groups.get((init, freeze))
            x = place + (0.2 if init == "byol" else -0.2)
            if not group:
                axes.text(x, 2, "no run", ha="center", color="0.4")
                continue
            values = 100 * np.array([run["summary"]["test_accuracy"] for run in group])
            axes.bar(x, values.mean(), 0.36, color=style["color"], hatch=style["hatch"], alpha=0.75,
                     edgecolor="white", label=style["label"] if place == 0 else None)  # fmt: skip
            if len(values) > 1:
                spread = np.linspace(-0.08, 0.08, len(values))
                axes.plot(x + spread, values, "o", color="black", ms=4, zorder=3)
            axes.text(x, values.max() + 1.5, f"{values.mean():.1f}", ha="center", weight="bold")
    summary = next(iter(groups.values()))[0]["summary"]
    chance = 100 / len(summary["classes"])
    axes.axhline(chance, color="0.3", ls=":", lw=1)
    axes.text(1.55, chance + 0.8, "chance", ha="right", color="0.3", fontsize=9)
    axes.set_xlim(-0.6, 1.6)
    axes.set_ylim(0, 122)  # room for the legend above a bar of 100
    axes.set_yticks(range(0, 101, 20))
    axes.set_xticks([0, 1], [PARTS[True], PARTS[False]])
    axes.set_ylabel("test accuracy (%)")
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


def draw_pretraining(pretraining: dict[str, list[dict]]) -> plt.Figure:
    """Loss, learning rate, tau and spread of each pretraining run over its epochs.

    A run with several losses has a line for each of them, and for the spread of each.
    """
    panels = [
        ("loss", "loss (0 to 8 each)"),
        ("lr", "learning rate"),
        ("tau", "tau of the target"),
        ("spread", "spread of projections"),
    ]
    figure, grid = plt.subplots(2, 2, figsize=(9, 6), layout="constrained", sharex=True)
    colours = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"]
    lines = 0
    for axes, (key, label) in zip(grid.flat, panels, strict=True):
        number = 0
        for name, rows in pretraining.items():
            parts = [column for column in rows[0] if column.startswith(f"{key}_")]
            for column in parts or [key]:
                part = column.removeprefix(key).replace("_", ", ")  # "", or ", layer2.0"
                style = ("-", "--", "-.", ":")[number % 4]
                known = [row for row in rows if column in row]
                axes.plot(
                    [row["epoch"] for row in known],
                    [row[column] for row in known],
                    style,
                    lw=1.5,
                    label=plain(name + part),
                    color=colours[number % len(colours)],
                )
                number += 1
        lines = max(lines, number)
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    grid[1, 1].set_ylim(0, 1.1)
    grid[1, 1].text(0.02, 0.04, "0 = collapsed, 1 = evenly spread", transform=grid[1, 1].transAxes,
                    color="0.3", fontsize=9)  # fmt: skip
    for axes in grid[1]:
        axes.set_xlabel("epoch over the unlabelled images")
    if 1 < lines <= MOST_IN_LEGEND:
        grid[0, 0].legend()
    if 1 < len(pretraining) <= MOST_IN_LEGEND:
        grid[0, 1].legend()
    few = len(pretraining) <= MOST_IN_LEGEND
    figure.suptitle("BYOL pretraining" + ("" if few else f", {len(pretraining)} runs"))
    return figure


def table(groups: dict) -> str:
    """The accuracies as a Markdown table: mean and standard deviation over seeds, in per cent."""
    if not groups:
        return ""
    lines = ["| test accuracy, % | random weights | BYOL weights |", "|---|---|---|"]
    for freeze in (True, False):
        cells = []
        for init in STYLES:
            values = [100 * r["summary"]["test_accuracy"] for r in groups.get((init, freeze), [])]
            if not values:
                cells.append("no run")
            elif len(values) == 1:
                cells.append(f"{values[0]:.1f}")
            else:
                deviation = np.std(values, ddof=1)
                cells.append(f"{np.mean(values):.1f} ± {deviation:.1f} ({len(values)} seeds)")
        lines.append(f"| {PARTS[freeze]} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
