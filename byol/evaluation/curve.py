"""Accuracy against the number of labels: the test, the counts, the results, and what they say."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from byol.config import ClassifierConfig
from byol.errors import UserError, printable
from byol.evaluation.classifier_run import run_identity
from byol.evaluation.labelled import pick_test_images
from byol.evaluation.protocol import Protocol, Weights
from byol.files import write_json

COUNTS = ["10", "25", "50", "100", "250", "1000", "all"]
TEST_PARTS = 5  # one of so many parts of the labelled photos is the test, if there is none
MOST_TESTED = 5_000  # photos of that part
STEPS, LEAST_EPOCHS = 500, 20  # of fine-tuning; 500 steps are 100 epochs with 250 labels
VERSION = 1  # raise it if the same settings give other results


@dataclass(frozen=True)
class Line:
    """One curve. start: random, byol, imagenet, or the name of other weights."""

    start: str
    weights: Weights
    frozen: bool

    @property
    def name(self) -> str:
        if self.start == "random":
            return "random weights, frozen" if self.frozen else "supervised from scratch"
        start = {"byol": "BYOL", "imagenet": "ImageNet"}.get(self.start, self.start)
        return f"{start}, {'frozen' if self.frozen else 'fine-tuned'}"


@dataclass(frozen=True)
class Task:
    """One result: a line with one draw of the labels. train: its labelled rows."""

    line: Line
    protocol: Protocol
    draw: int
    train: np.ndarray
    settings: ClassifierConfig
    identity: str

    @property
    def count(self) -> int:
        return len(self.train)

    @property
    def bank(self) -> tuple[int, int]:
        """What its features are computed once for: the weights, and the seed of random ones."""
        return id(self.line.weights), self.draw if self.line.start == "random" else 0

    @property
    def images(self) -> int:
        """How many images its training sees, epochs times images."""
        return self.protocol.epochs * self.count


def lines_of(random: Weights, byol: Weights, others: list[Weights], fine_tune: bool) -> list[Line]:
    """List the curves: frozen ones, then those in which all weights learn."""
    lines = [Line("byol", byol, True), *(Line(w.name, w, True) for w in others)]
    lines.append(Line("random", random, True))
    return lines + [Line("byol", byol, False), Line("random", random, False)] * fine_tune


def set_test_apart(photos, split):
    """Choose the images that all counts and draws are tested on: (photos, rows, what they are).

    They are the test split or the holdout. If there is neither, one of `TEST_PARTS` parts of the
    labelled images is the test split of the photos that come back, each class evenly, no group
    torn. split: with all labels. Raises `UserError` for a class with one image or one group.
    """
    what, rows = pick_test_images(photos, split, or_none=True)
    if len(rows):
        return photos, rows, what
    parts = max(TEST_PARTS, math.ceil(len(split.labelled) / MOST_TESTED))
    try:
        part = split.folds(photos, parts, split.split_seed)
    except UserError as error:
        reason = str(error).partition(":")[0].replace("cross-validation", "a test of its own")
        raise UserError(f"--curve: {reason}; label more of it, or put photos in test/") from None
    rows = split.labelled[part == 0]
    is_test = photos.is_test.copy()
    is_test[rows] = True
    return dataclasses.replace(photos, is_test=is_test), rows, "labelled photos set apart"


def keep_fitting(
    protocols: list[Protocol], available: list[int], classes: list[str]
) -> tuple[list[Protocol], dict[str, str]]:
    """Keep the protocols that there are labels for; say of the others why not.

    available: labelled images of each class to learn from. Raises `UserError` if none is left.
    """
    every = any(p.count is None for p in protocols)
    reasons = {p.labels: why_not(p.count, available, classes, every) for p in protocols}
    left_out = {labels: reason for labels, reason in reasons.items() if reason}
    kept = [p for p in protocols if not reasons[p.labels]]
    if not kept:
        told = "; ".join(f"{labels}: {reason}" for labels, reason in left_out.items())
        raise UserError(f"--curve has no label count that can be judged ({told}); give others")
    return sorted(kept, key=lambda p: math.inf if p.count is None else p.count), left_out


def why_not(count: int | None, available: list[int], classes: list[str], every: bool) -> str:
    """Say why so many labels cannot be judged; nothing if they can. every: all are judged too."""
    total, of = sum(available), len(available)
    if count is not None and count >= total + (not every):
        return f"there are {total:,} to learn from"
    if count is None:
        needed = [2] * of
    else:
        needed = [count // of + (index < count % of) for index in range(of)]
        if min(needed) < 2:
            return f"the {of} classes need two each"
    for name, there, share in zip(classes, available, needed, strict=True):
        if there < share:
            return f"class {printable(name)} has {there:,} to learn from, and needs {share:,}"
    return ""


def epochs_by_rule(count: int, batch_size: int) -> int:
    """Give the epochs of `STEPS` steps of training, or `LEAST_EPOCHS` if they are more."""
    steps_per_epoch = count // min(batch_size, count)
    return max(LEAST_EPOCHS, math.ceil(STEPS / steps_per_epoch))


def digest_rows(photos, rows: np.ndarray) -> str:
    """Hash names and labels of images."""
    digest = hashlib.sha256()
    for row in rows:
        name, label = photos.names[row], photos.classes[photos.labels[row]]
        digest.update(f"{name}\0{label}\0".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def identify(line: Line, settings: ClassifierConfig, photos, train: str, test: str) -> str:
    """Hash all that decides a result. train, test: see `digest_rows`."""
    about = {"version": VERSION, "train": train, "test": test}
    if line.frozen:
        about |= {
            "weights": line.weights.digest or f"random, seed {settings.seed}",
            "images": photos.fingerprint,
            "stored": settings.stored_side,
            "blocks": settings.blocks,
        }
        for key in ("arch", "stem", "image_size", "mean", "std", "channels"):
            about[key] = getattr(settings, key)
    else:
        about |= run_identity(settings, line.weights.pretrained, photos)
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]


class Results:
    """Results by their identity, in a file that is written anew with each of them."""

    def __init__(self, path: Path):
        """Read them. Raises `UserError` if the file is damaged."""
        self.path, self.found = path, {}
        if not path.exists():
            return
        try:
            self.found = json.loads(path.read_text(encoding="utf-8"))["results"]
            fine = all(_is_result(result) for result in self.found.values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            fine = False
        if not fine:
            raise UserError(
                f"{printable(str(path))} is damaged: put a copy of it back, or remove it, and all "
                "is judged again"
            )

    def of(self, task: Task) -> dict | None:
        return self.found.get(task.identity)

    def add(self, task: Task, accuracy: float, balanced: float, seconds: float) -> None:
        about = {"line": task.line.name, "labels": task.count, "draw": task.draw}
        figures = {"accuracy": accuracy, "balanced": balanced, "seconds": round(seconds, 2)}
        self.found[task.identity] = about | figures
        write_json(self.path, {"results": self.found})


def _is_result(result: dict) -> bool:
    return all(type(result[key]) is float and 0 <= result[key] <= 1
               for key in ("accuracy", "balanced"))  # fmt: skip


def curves_of(lines: list[Line], tasks: list[Task], results: Results, measure: str) -> list[dict]:
    """List the curves that have results: each point the mean and the deviation over its draws.

    measure: accuracy, or balanced.
    """
    curves = []
    for line in lines:
        known = [(t.count, results.of(t)) for t in tasks if t.line is line and results.of(t)]
        points = []
        for count, group in itertools.groupby(known, key=lambda pair: pair[0]):
            values = [result[measure] for _, result in group]
            deviation = statistics.stdev(values) if len(values) > 1 else None
            mean = statistics.mean(values)
            points.append({"labels": count, "mean": mean, "std": deviation, "values": values})
        if points:
            about = {"name": line.name, "start": line.start, "frozen": line.frozen}
            curves.append({**about, "points": points})
    return curves


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


def verdict(curves: list[dict], count: int) -> dict:
    """Say what BYOL's frozen features are worth with so many labels, against no pretraining.

    The curve without pretraining is the better of random weights, frozen, and training from
    scratch, at each count.
    """
    points = {(c["start"], c["frozen"]): {p["labels"]: p for p in c["points"]} for c in curves}
    byol = points["byol", True][count]
    without: dict[int, dict] = {}
    for frozen in (True, False):
        for labels, point in points.get(("random", frozen), {}).items():
            best = max(without.get(labels, point), point, key=lambda p: p["mean"])
            without[labels] = best
    baseline = [(labels, without[labels]["mean"]) for labels in sorted(without)]
    kind, equal = worth(byol["mean"], baseline)
    same, spread = without[count], (byol["std"] or 0, without[count]["std"] or 0)
    close = 0 < byol["mean"] - same["mean"] < max(spread)
    sentence = _sentence(count, kind, equal, scratch=("random", False) in points, close=close)
    return {"sentence": sentence, "labels": count, "accuracy": byol["mean"], "worth": kind,
            "equal_labels": equal, "without": baseline}  # fmt: skip


def _sentence(count: int, kind: str, equal: float, scratch: bool, close: bool) -> str:
    without = "without pretraining" if scratch else "on random features"
    start = f"With {count:,} labels, BYOL's features are"
    if kind == "more":
        text = f"{start} worth more than {equal:,} labels {without}, the most that were tried."
    elif kind == "fewer":
        text = f"{start} not worth more: {equal:,} labels {without} do better, the fewest tried."
    elif equal <= count:
        text = f"{start} not worth more: about {two_digits(equal)} labels {without} do as well."
    else:
        text = f"{start} worth as much as about {two_digits(equal)} labels {without}."
    text += " The gain is within the spread of the draws." if close else ""
    return text + ("" if scratch else " Training from scratch was not run.")


def two_digits(number: float) -> str:
    """Write a number with its two first digits."""
    return f"{float(f'{number:.2g}'):,.0f}"
