"""Does pretraining pay, and by how much? In a few words, in a sentence, and in what stands behind.

`verdict` says it of the classifiers that `plot_losses.py` reads.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from byol.report.style import TRAINED, styles_of

GOOD, UNCLEAR, BAD, NONE = "good", "unclear", "bad", "none"
HEADLINES = {
    GOOD: "Pretraining pays",
    UNCLEAR: "It is not clear whether pretraining pays",
    BAD: "No gain from pretraining",
    NONE: "Nothing can be compared yet",
}
TESTS = {
    "cross-validation": "judged by cross-validation on the {} labelled photos",
    "hidden labels": "tested on {} photos whose labels were hidden",
    "holdout": "tested on {} photos that were held out",
    "test split": "tested on the {} photos of the test split",
}


@dataclass
class Verdict:
    """kind: a key of `HEADLINES`. sentence: the answer. more: sentences on what it rests on."""

    kind: str
    sentence: str
    more: list[str] = field(default_factory=list)
    headline: str = ""

    def __post_init__(self) -> None:
        self.headline = self.headline or HEADLINES[self.kind]


def verdict(groups: dict, curve: str = "") -> Verdict:
    """Compare BYOL's weights with random ones. groups: {(init, trained): runs} (see `read_runs`).

    They come in the order of `TRAINED`. curve: the sentence of a label curve. It
    comes before both, since it has more draws of the labels.
    """
    told = [
        comparison
        for trained in TRAINED
        if ("byol", trained) in groups and ("random", trained) in groups
        for comparison in [compare(groups, trained)]
    ]
    first = told[0] if told else Verdict(NONE, _what_is_missing(groups))
    others = [f"{other.sentence} {' '.join(other.more)}" for other in told[1:]]
    if not curve:
        return Verdict(first.kind, first.sentence, first.more + others)
    whole = [f"{first.sentence} {' '.join(first.more)}"] if told else []
    return Verdict(NONE, curve, whole + others, headline="What pretraining is worth in labels")


def compare(groups: dict, trained: str) -> Verdict:
    """Compare the classifiers of both starts.

    A gap is clear if it is larger than twice the deviation over the seeds, and larger than twice
    the standard error that tests on so few photos have.
    """
    byol, random = (accuracies(groups[init, trained]) for init in ("byol", "random"))
    gap = statistics.mean(byol) - statistics.mean(random)
    means = f"{statistics.mean(byol):.1f} against {statistics.mean(random):.1f} %"
    summary = groups["byol", trained][0]["summary"]
    error = test_error(byol, random, summary["test_images"])
    spread = max((statistics.stdev(v) for v in (byol, random) if len(v) > 1), default=None)
    seeds = sorted({len(byol), len(random)})

    more = [_how(summary, trained, seeds, spread)]
    if spread is not None and abs(gap) <= 2 * spread:
        more.append(f"The seeds deviate by {spread:.1f} points, so the gap may be luck.")
    elif abs(gap) <= 2 * error:
        more.append(f"With so few photos a gap below {2 * error:.1f} points may be luck.")
    clear = len(more) == 1
    if seeds[0] == 1:
        more.append("One seed cannot show how much is luck: --seeds 3 does.")
    better = [
        f"{_label(init)} reach {statistics.mean(accuracies(groups[init, trained])):.1f} %, more "
        "than BYOL's."
        for init, of in groups
        if of == trained and statistics.mean(accuracies(groups[init, of])) > statistics.mean(byol)
        if init not in ("byol", "random")
    ]
    if gap <= 0:
        return Verdict(BAD, f"BYOL's weights do not beat random ones: {means}.", more + better)
    sentence = f"BYOL's weights beat random ones by {gap:.1f} points: {means}."
    return Verdict(GOOD if clear else UNCLEAR, sentence, more + better)


def accuracies(runs: list[dict]) -> list[float]:
    """Give the test accuracy of each run in per cent."""
    return [100 * run["summary"]["test_accuracy"] for run in runs]


def test_error(byol: list[float], random: list[float], images: int) -> float:
    """Estimate the standard error of the gap in points, from the number of test images alone.

    Each accuracy is a share of `images`: its variance is p (1 - p) / images. Both are tested on the
    same images, so this is rather too large.
    """
    shares = [statistics.mean(values) / 100 for values in (byol, random)]
    return 100 * sum(p * (1 - p) / max(1, images) for p in shares) ** 0.5


def _how(summary: dict, trained: str, seeds: list[int], spread: float | None) -> str:
    """Say how it was measured."""
    tested = TESTS.get(summary["tested_on"], "tested on {} photos").format(
        f"{summary['test_images']:,}"
    )
    count = " and ".join(map(str, seeds))
    of = "one seed each" if seeds == [1] else f"mean of {count} seeds"
    of += f", which deviate by {spread:.1f} points at most" if spread is not None else ""
    learned = TRAINED[trained].capitalize()
    return f"{learned}, {summary['labels']:,} labels, {of}; {tested}."


def _label(init: str) -> str:
    label = styles_of([init])[init]["label"]
    return label[0].upper() + label[1:]


def _what_is_missing(groups: dict) -> str:
    """Say which classifier to train next."""
    missing = [init for init in ("byol", "random") if not any(init == of for of, _ in groups)]
    if not missing:
        return (
            "BYOL's weights were tried frozen and random ones were not, or the other way round: "
            "train_classifier.py --init random --freeze makes what is missing, or the same without "
            "--freeze."
        )
    start = {"byol": "byol.pt", "random": "random"}[missing[0]]
    return f"train_classifier.py --init {start} --freeze makes the classifier that is missing."
