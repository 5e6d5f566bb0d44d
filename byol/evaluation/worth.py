"""What features are worth: how many labels would do as well without them."""

from __future__ import annotations

import itertools


def worth(accuracy: float, points: list[tuple[int, float]]) -> tuple[str, float]:
    """Tell how many labels a curve needs for an accuracy: ("about", N).

    points: label counts, ascending, and the accuracy with them. If more labels gave less, the
    accuracy of fewer labels counts: nobody has to use all. Between two counts the accuracy is
    linear in the logarithm of the count. ("more", most) if all counts stay below, ("fewer", least)
    if the first is above.
    """
    best = list(itertools.accumulate((value for _, value in points), max))
    at = next((index for index, value in enumerate(best) if value >= accuracy), None)
    if at is None:
        return "more", points[-1][0]
    if at == 0:
        return ("about" if best[0] == accuracy else "fewer"), points[0][0]
    (low, high), (below, above) = (points[at - 1][0], points[at][0]), best[at - 1 : at + 1]
    part = (accuracy - below) / (above - below)
    return "about", low * (high / low) ** part


def judge_worth(curves: list[dict], count: int) -> dict:
    """Say what BYOL's frozen features are worth with so many labels, against no pretraining.

    The curve without pretraining is the better of random weights, frozen, and training from
    scratch, at each count. Training from scratch counts once it was done with all counts.
    """
    points = {(c["start"], c["frozen"]): {p["labels"]: p for p in c["points"]} for c in curves}
    byol = points["byol", True][count]
    without: dict[int, dict] = {}
    counts = points.get(("random", False), {}).keys()
    scratch = counts >= points["random", True].keys()
    for frozen in (True, False) if scratch else (True,):
        for labels, point in points.get(("random", frozen), {}).items():
            best = max(without.get(labels, point), point, key=lambda p: p["mean"])
            without[labels] = best
    baseline = [(labels, without[labels]["mean"]) for labels in sorted(without)]
    kind, equal = worth(byol["mean"], baseline)
    same, spread = without[count], (byol["std"] or 0, without[count]["std"] or 0)
    close = 0 < byol["mean"] - same["mean"] < max(spread)
    sentence = _sentence(count, kind, equal, scratch=scratch, close=close)
    if not scratch:
        sentence += " Training from scratch was not run" + (" with all counts." if counts else ".")
    return {
        "sentence": sentence,
        "labels": count,
        "accuracy": byol["mean"],
        "worth": kind,
        "equal_labels": equal,
        "told": f"{kind} {two_digits(equal)}",
        "without": baseline,
    }


def _sentence(count: int, kind: str, equal: float, scratch: bool, close: bool) -> str:
    without = "without pretraining" if scratch else "on random features"
    start = f"With {count:,} labels, BYOL's features are"
    if kind == "more":
        text = f"{start} worth more than {equal:,} labels {without}, the most that were tried."
    elif kind == "fewer":
        text = f"{start} not worth more: {equal:,} labels {without} do better, the fewest tried."
    elif equal <= count or two_digits(equal) == two_digits(count):
        text = f"{start} not worth more: about {two_digits(equal)} labels {without} do as well."
    else:
        text = f"{start} worth as much as about {two_digits(equal)} labels {without}."
    return text + (" The gain is within the spread of the draws." if close else "")


def two_digits(number: float) -> str:
    """Write a number with its two first digits."""
    return f"{float(f'{number:.2g}'):,.0f}"
