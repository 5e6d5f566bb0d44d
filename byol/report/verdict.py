"""One sentence: does pretraining pay, and by how much?"""

from __future__ import annotations

import statistics

from byol.report.style import TRAINED


def verdict(groups: dict) -> str:
    """Compare BYOL's weights with random ones. groups: {(init, freeze): runs} (see `read_runs`).

    The frozen backbone comes first, else the full model. A gap counts if it is larger than twice
    the larger deviation over seeds.
    """
    for freeze in (True, False):
        runs = [groups.get((init, freeze)) for init in ("byol", "random")]
        if all(runs):
            return _compare(*runs, TRAINED[freeze])
    missing = [init for init in ("byol", "random") if not any(init == of for of, _ in groups)]
    if not missing:
        return (
            "Nothing can be compared yet: BYOL's weights are frozen and random ones are not, or "
            "the other way round."
        )
    start = {"byol": "byol.pt", "random": "random"}[missing[0]]
    return (
        f"Nothing can be compared yet: train_classifier.py --init {start} --freeze makes the "
        "classifier that is missing."
    )


def _compare(byol: list[dict], random: list[dict], trained: str) -> str:
    """Say it of the runs of each start."""
    values = [[100 * run["summary"]["test_accuracy"] for run in runs] for runs in (byol, random)]
    high, low = map(statistics.mean, values)
    seeds, summary = min(map(len, values)), byol[0]["summary"]
    judged = "cross-validation" if summary["tested_on"] == "cross-validation" else "tested on "
    if judged == "tested on ":
        judged += f"{summary['test_images']:,} photos, {summary['tested_on']}"
    how = f"{high:.1f} against {low:.1f} % with a {trained}, {summary['labels']:,} labels; {judged}"
    gap = high - low
    if gap <= 0:
        return f"BYOL's weights do not beat random ones: {how}."
    first = f"BYOL's weights beat random ones by {gap:.1f} points: {how}"
    if seeds == 1:
        return f"{first}. That is one seed: add --seeds 3 to see how much is luck."
    spread = max(statistics.stdev(of_start) for of_start in values)
    if gap <= 2 * spread:
        return (
            f"{first}. The {seeds} seeds are apart by as much (deviation {spread:.1f}), so that "
            "may be luck."
        )
    return f"{first}; mean of {seeds} seeds, deviation {spread:.1f}."
