"""Accuracy against the number of labels: what is to be judged, the results, and how they are had.

The test is the same for all counts and draws. A result that is there is not judged again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from byol.config import ClassifierConfig
from byol.errors import UserError, printable
from byol.evaluation.classifier_run import run_identity
from byol.evaluation.labelled import pick_test_images
from byol.evaluation.protocol import (
    Protocol,
    Weights,
    extract_bank,
    settings_of,
    train_or_take,
)
from byol.evaluation.scores import Scores
from byol.evaluation.worth import judge_worth
from byol.files import write_json
from byol.progress import about_time, say

COUNTS = ["10", "25", "50", "100", "250", "1000", "all"]
TEST_PARTS = 5  # one of so many parts of the labelled photos is the test, if there is none
MOST_TESTED = 5_000  # photos of that part
STEPS, LEAST_EPOCHS = 500, 20  # of fine-tuning; 500 steps are 100 epochs with 250 labels
TRAINING = 6  # times as long as its features takes a training image: 5 to 7 on a CPU
BESIDE = 3_000  # images at most whose features a training takes beside those of the test
SET_APART = "labelled photos set apart"
VERSION = {"frozen": 1, "full": 2}  # raise it if the same settings give other results


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
    return dataclasses.replace(photos, is_test=is_test), rows, SET_APART


def keep_fitting(
    protocols: list[Protocol], photos, pool: np.ndarray
) -> tuple[list[Protocol], dict[str, str]]:
    """Keep the protocols that there are labels for; say of the others why not.

    pool: the rows of the labelled images to learn from. Raises `UserError` if none is left.
    """
    classes = photos.classes
    available = np.bincount(photos.labels[pool], minlength=len(classes)).tolist()
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


def take_epochs_by_rule(protocols: list[Protocol], counts: dict[str, int]) -> None:
    """Let each protocol train as long as the rule says. counts: its labels, by their name."""
    for protocol in protocols:
        protocol.epochs = epochs_by_rule(counts[protocol.labels], protocol.batch_size)


def digest_rows(photos, rows: np.ndarray) -> str:
    """Hash names and labels of images."""
    digest = hashlib.sha256()
    for row in rows:
        name, label = photos.names[row], photos.classes[photos.labels[row]]
        digest.update(f"{name}\0{label}\0".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def identify(line: Line, settings: ClassifierConfig, photos, train: str, test: str) -> str:
    """Hash all that decides a result. train, test: see `digest_rows`."""
    version = VERSION["frozen" if line.frozen else "full"]
    about = {"version": version, "train": train, "test": test}
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


# ---- what is to be judged


def plan(
    lines: list[Line],
    protocols: list[Protocol],
    photos,
    test: np.ndarray,
    config: ClassifierConfig,
    representation: str,
    draw_labels: Callable[[Protocol, int], np.ndarray],
) -> list[Task]:
    """List all results of the curves, by label count, draw and line.

    draw_labels: gives the labelled rows of a protocol and a draw.
    """
    tasks, tested = [], digest_rows(photos, test)
    for protocol in protocols:
        for draw in range(protocol.seeds if protocol.count else 1):  # of all labels there is one
            train = draw_labels(protocol, draw)
            trained = digest_rows(photos, train)
            for line in lines:
                settings = settings_of(config, line.weights, representation, protocol, draw)
                identity = identify(line, settings, photos, trained, tested)
                tasks.append(Task(line, protocol, draw, train, settings, identity))
    return tasks


def describe_tested(photos, test: np.ndarray, tested_on: str, byol: Weights) -> dict:
    """Say what the test is, which accuracy is shown, and that of guessing."""
    scores = Scores.of_test(photos.labels[test], photos.classes)
    if scores.warning():
        print(scores.warning(), file=sys.stderr)
    if tested_on == SET_APART and photos.has_names_of(byol.pretrained["data_fingerprint"]):
        tested_on += "; BYOL saw them without labels"
    return {
        "tested": len(test),
        "tested_on": tested_on,
        "measure": "balanced accuracy" if scores.uneven else "test accuracy",
        "chance": 1 / sum(count > 0 for count in scores.counts) if scores.uneven else scores.chance,
    }


def describe_plan(tasks: list[Task], results: Results, test: np.ndarray, seconds: float) -> str:
    """Say what is judged, what of it is to be done, and how long that takes, for a banner.

    seconds: that the features of an image take.
    """
    left = [task for task in tasks if not results.of(task)]
    trained = [task for task in left if not task.line.frozen]
    frozen = sum(len(rows_of(group, test)) for group in by_bank(tasks, results))
    images = sum(task.images for task in trained)
    tested = len(trained) * (len(test) + min(len(test), BESIDE))
    time = about_time(seconds * (frozen + TRAINING * images + tested)) if left else "no time"
    counts = dict.fromkeys((task.count, task.protocol.epochs) for task in tasks)
    epochs = any(not task.line.frozen for task in tasks)
    told = (f"{n:,}" + (f" ({e} epochs)" if epochs else "") for n, e in counts)
    return (
        f"labels      {', '.join(told)}\n"
        f"to do       {len(left) - len(trained)} linear evaluations, {len(trained)} trainings of "
        f"{images:,} images in all: {time}; {len(tasks) - len(left)} results are there"
    )


# ---- how it is judged


def by_bank(tasks: list[Task], results: Results) -> list[list[Task]]:
    """Group the frozen tasks without a result by the encoder whose features they need."""
    groups: dict[tuple, list[Task]] = {}
    for task in tasks:
        if task.line.frozen and not results.of(task):
            groups.setdefault(task.bank, []).append(task)
    return list(groups.values())


def rows_of(group: list[Task], test: np.ndarray) -> np.ndarray:
    """List the rows whose features the tasks need."""
    return np.unique(np.concatenate([test, *(task.train for task in group)]))


def judge_group(group: list[Task], results: Results, photos, test: np.ndarray, device, amp) -> None:
    """Judge the frozen tasks of one encoder by linear evaluation, on features computed once."""
    weights, (_, seed), settings = group[0].line.weights, group[0].bank, group[0].settings
    bank = extract_bank(weights, seed, photos, rows_of(group, test), settings, device, amp)
    for task in group:
        started = time.perf_counter()
        representation = task.settings.representation
        confusion, _ = bank.linear(representation, task.train, test, len(photos.classes))
        scores = Scores(confusion, photos.classes)
        seconds = time.perf_counter() - started
        results.add(task, scores.accuracy, scores.balanced_accuracy, seconds)
        tell(task, scores.accuracy, seconds)


def train_task(train: Callable, task: Task, results: Results, photos, runs: Path) -> None:
    """Train all weights for one task, note the result, and remove the run.

    train: that of train_classifier.py. runs: the folder for runs.
    """
    folder = runs / task.identity
    summary = train_or_take(train, folder, task.settings, task.line.weights, photos)
    accuracy, seconds = summary["test_accuracy"], summary["seconds"]
    results.add(task, accuracy, summary["balanced_accuracy"], seconds)
    shutil.rmtree(folder, ignore_errors=True)  # a classifier has 45 MB, and there are dozens
    tell(task, accuracy, seconds)


def tell(task: Task, accuracy: float, seconds: float) -> None:
    say(
        f"{printable(task.line.name)}, {task.count:,} labels, draw {task.draw}: "
        f"{100 * accuracy:.2f} % ({seconds:.0f} s)"
    )


def measure_speed(weights: Weights, photos, rows: np.ndarray, config, device, amp) -> float:
    """Measure the seconds that the features of an image take."""
    some = rows[:256]
    for _ in range(2):  # the first call warms up
        started = time.perf_counter()
        extract_bank(weights, 0, photos, some, config, device, amp)
        seconds = time.perf_counter() - started
    return seconds / len(some)


# ---- what it gave


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


def content_of(lines: list[Line], tasks: list[Task], results: Results, about: dict) -> dict:
    """Give what the picture and the table show of the results so far: curves and sentence.

    about: what belongs to all of them, `measure` and the `count` of the sentence among it.
    """
    measure = "balanced" if about["measure"].startswith("balanced") else "accuracy"
    curves = curves_of(lines, tasks, results, measure)
    verdict = judge_worth(curves, about["count"])
    left = sum(1 for task in tasks if not results.of(task))
    unfinished = f"unfinished, {left} of {len(tasks)} results are missing" if left else ""
    content = {"sentence": verdict["sentence"], "unfinished": unfinished, **about}
    return {**content, "verdict": verdict, "curves": curves}
