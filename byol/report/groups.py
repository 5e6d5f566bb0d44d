"""Classifiers that differ in their seeds alone: which are the best, and what they are called."""

from __future__ import annotations

import statistics
from pathlib import Path

from byol.report.runs import read_jsonl
from byol.report.style import FROZEN, TRAINED, styles_of
from byol.run.checkpoint import CLASSIFIER
from byol.run.left import read_json


def name_of(group: tuple[str, str]) -> str:
    """Name a group by what its weights start from and what learned: (init, trained)."""
    init, trained = group
    return f"{styles_of([init])[init]['label']}, {TRAINED[trained]}"


def best_of(groups: dict) -> tuple[str, str]:
    """Pick the group with the highest mean test accuracy. groups: {(init, trained): runs}."""

    def accuracy(group: tuple[str, str]) -> float:
        return statistics.mean(run["summary"]["test_accuracy"] for run in groups[group])

    return max(groups, key=accuracy)


def with_random(groups: dict) -> list[tuple[str, str]]:
    """List the best group of random weights and that of all others, as far as they are there.

    That of random weights has learned as the other one has (frozen or full), if there is such a
    run.
    """
    random = {group: runs for group, runs in groups.items() if group[0] == "random"}
    others = {group: runs for group, runs in groups.items() if group[0] != "random"}
    best = [best_of(others)] if others else []
    alike = {group: runs for group, runs in random.items() if best and group[1] == best[0][1]}
    return ([best_of(alike or random)] if random else []) + best


def frozen_run(groups: dict) -> str:
    """Name a run that has an encoder as it was pretrained: frozen, of BYOL if there is one.

    Without one it is the name of a run that would be.
    """
    names = {init: runs[0]["name"] for (init, trained), runs in groups.items() if trained == FROZEN}
    learned = {init: name for init, name in names.items() if init != "random"}
    return names.get("byol") or next(iter(learned.values()), "classifier-byol-frozen")


def name_trained(folder: Path, content: dict) -> str:
    """Name the encoder of a run: of pretraining by its epochs, of a classifier by its start."""
    if content["kind"] == CLASSIFIER:
        start = str(read_json(folder / "summary.json").get("init"))
        return styles_of([start])[start]["label"]
    try:
        row = next(row for row in read_jsonl(folder / "metrics.jsonl") if row["epoch"] > 0)
        epochs = f"{content['step'] * row['epoch'] / row['step']:.3g}"
    except (OSError, ValueError, LookupError, TypeError, StopIteration, ZeroDivisionError):
        return "BYOL"
    return f"BYOL, {epochs} epoch{'' if epochs == '1' else 's'}"
