"""A run of a classifier: how it is known again, how it goes on, what it writes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from byol.config import BELONGING, LABELS, NAMING, ClassifierConfig, check, inherit, modern_settings
from byol.errors import UserError, printable
from byol.evaluation.classifier import Classifier
from byol.evaluation.folds import KEPT
from byol.evaluation.labelled import Labelled
from byol.evaluation.scores import Scores
from byol.files import write_json
from byol.progress import say
from byol.run import checkpoint
from byol.run.checkpoint import FROM_PRETRAINED
from byol.run.classifier_log import ClassifierLog
from byol.run.folder import (
    check_same_settings,
    holds_a_run,
    know_photos_again,
    remove_states,
)
from byol.run.run import Run

# what says nothing about a run's result, given fingerprints of the weights and of the images
NO_IDENTITY = {
    *("init", "data", "skip_broken", "run_dir", "runs", "seeds"),
    *("deterministic", "save_every", "resume", "overwrite", "tensorboard"),
}


class ClassifierRun(Run):
    """A `Run` of `train_classifier.py`. `summary` is set if it was finished before."""

    saves_at_end = False  # the test comes after the last step, and a result after the test
    about_name = "about.partial.json"  # in the end it is in summary.json, so that both are of a run

    def __init__(
        self, config: ClassifierConfig, pretrained: dict | None, photos, say: Callable = say
    ):
        """Open the folder of the run; with `--resume` read its last state, if it has one.

        Raises `UserError` if the folder holds another run.
        """
        self.start_name = start_of(config, pretrained)
        folder = run_folder(config, self.start_name)
        going_on = config.resume and holds_a_run(folder)
        identity = run_identity(config, pretrained, photos)
        super().__init__(folder, identity, dataclasses.replace(config, resume=going_on))
        self.config, self.say_to, self.resume = config, say, config.resume
        self.check_same_photos(photos)
        self.summary = read_if_finished(self.folder, identity) if config.resume else None
        if self.summary:
            remove_states(self.folder)
            self.say(f"{self.folder} holds this run, finished")
            return
        if not (going_on or config.overwrite) and holds_another(self.folder, identity):
            raise UserError(
                f"{self.folder} holds a finished run of other settings, weights or images: give "
                "--overwrite to replace it, or another --runs or --run-dir to keep it"
            )
        if going_on:
            self.load_state(NO_IDENTITY, may_change=set())
        elif config.resume and not (self.folder / KEPT).exists():
            self.say(f"note        nothing to resume in {printable(str(self.folder))}: a new run")

    def say(self, text: str) -> None:
        self.say_to(text)

    def known_as(self) -> str:
        """Name the run by what decides its result: stopped between folds, it has no state yet."""
        text = json.dumps(self.settings, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def open_log(self, *about) -> ClassifierLog:
        # not `self.say`: run and log would hold each other, and the lock of the folder with them
        return ClassifierLog(self.folder, *about, self.say_to)

    def finish(
        self, classifier: Classifier, labels: Labelled, scores: Scores | None, log: ClassifierLog
    ) -> dict:
        """Write the result, and remove the states of training. Returns the summary.

        `summary.json` comes last. It is all that plots and tables read, so an earlier result holds
        until then.
        """
        config, folder, last = self.config, self.folder, log.history[-1]
        if labels.folds:
            classifier.temperature = labels.folds.temperature()
        classifier.save(folder / "classifier.pt", dataclasses.asdict(config))
        write_json(folder / "config.json", dataclasses.asdict(config))
        labels.split.save(folder / "split.json")
        os.replace(log.path, folder / "metrics.jsonl")
        summary = {
            "init": self.start_name,
            "init_file": config.init,
            "freeze": config.freeze,
            "representation": config.representation,
            "seed": config.seed,
            "label_seed": labels.split.label_seed,
            "data": config.data,
            "image_size": config.image_size,
            "labels": len(labels.train),
            "classes": classifier.classes,
            "epochs": config.self_train or config.epochs,
            "self_train": config.self_train,
            "train_loss": last["loss"],
            "train_accuracy": last["accuracy"],
            **(scores.summary() if scores else {"test_accuracy": None}),
            "cross_validation": labels.folds.summary() if labels.folds else None,
            "temperature": classifier.temperature,
            "test_images": len(labels.test) or (len(labels.train) if scores else 0),
            "tested_on": labels.tested_on,
            **(labels.duplicates.summary() if labels.duplicates else {}),
            "seconds": round(log.seconds, 1),
            "run": self.settings,
            "curve": log.history,
        }
        if self.about:
            self.about.write()
            summary["about"] = self.about.content
        write_json(folder / "summary.json", summary)
        remove_states(folder)
        (folder / self.about_name).unlink(missing_ok=True)
        (folder / KEPT).unlink(missing_ok=True)
        return summary


def start_of(config: ClassifierConfig, pretrained: dict | None) -> str:
    """Name what the weights start from: random, byol, imagenet, or the name of another file."""
    if not pretrained:
        return "random"
    return "byol" if pretrained["config"] else Path(config.init).name


def run_folder(config: ClassifierConfig, start: str) -> Path:
    """Name the folder of a run: `--run-dir`, or one below `--runs` after start and what learns."""
    if config.run_dir:
        return Path(config.run_dir)
    name = f"classifier-{start}-{'frozen' if config.freeze else 'full'}"
    name += "-self-trained" if config.self_train else ""
    name += "-combined" if config.blocks else ""
    name += f"-seed{config.seed}" if config.seed else ""
    return Path(config.runs) / name


def run_identity(config: ClassifierConfig, pretrained: dict | None, photos) -> dict:
    """Identify a classifier run, so that a finished one is not repeated and a stopped one resumes.

    All that decides its result: settings, the weights that it starts from, images.
    """
    settings = dataclasses.asdict(config)
    return {
        **{key: value for key, value in settings.items() if key not in NO_IDENTITY},
        "weights": checkpoint.start_fingerprint(pretrained),
        "images": photos.fingerprint,
        # what they say counts, and not where they lie
        "labelled": config.labelled and "its folders",
        "labels_file": config.labels_file and photos.label_digest,
    }


def read_if_finished(folder: Path, identity: dict) -> dict | None:
    """Read the summary of the run in this folder, if it is this run (`run_identity`), finished."""
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        before = know_photos_again(modern_settings(summary["run"]), identity)
        accuracy = summary["test_accuracy"]
        tested = accuracy is not None or summary["tested_on"] == "nothing"
        this = before == identity and tested and 0 <= (accuracy or 0) <= 1
        return summary if this else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def holds_another(folder: Path, identity: dict) -> bool:
    """Tell whether the folder holds a finished run that is not this one (`run_identity`)."""
    return (folder / "summary.json").exists() and not read_if_finished(folder, identity)


def can_go_on(folder: Path, identity: dict) -> bool:
    """Tell whether the folder holds a state of this run (`run_identity`)."""
    try:
        before = checkpoint.load_state(folder)["config"]
        check_same_settings(before, identity, NO_IDENTITY, set(), folder)
    except UserError:
        return False
    return True


def take_settings(config: ClassifierConfig, pretrained: dict, flags: set[str]) -> None:
    """Put the settings of a checkpoint into `config`.

    Raises `UserError` if a flag contradicts them, or if they are not possible.
    """
    for key in FROM_PRETRAINED:
        if key in flags and getattr(config, key) != pretrained[key]:
            raise UserError(
                f"--{key.replace('_', '-')} {getattr(config, key)}: {config.init} was trained "
                f"with {pretrained[key]}; leave the option out"
            )
        inherit(config, key, pretrained[key], config.init)
    _inherit(config, pretrained, flags, ("store_size", "pack", "inner_blocks", "inner_grids"))
    take_labelling(config, pretrained, flags)
    if "data" not in flags:
        before = pretrained["config"]["data"]
        if before != config.data and config.labels == LABELS and "labels" not in flags:
            config.labels = BELONGING["data"]["labels"](before)
        _inherit(config, pretrained, flags, ("data", "skip_broken"))


def take_labelling(config: ClassifierConfig, pretrained: dict, flags: set[str]) -> None:
    """Take from a checkpoint where labels and groups are read, unless the settings say it.

    What names files and paths is for the same data only.
    """
    given = flags & set(NAMING) or any(getattr(config, key) is not None for key in NAMING)
    keys = () if given else ("classes_at",)
    if "data" not in flags or config.data == pretrained["config"].get("data"):
        keys = ("group_by",) if given else (*NAMING, "group_by")
    if config.group_by is not None:
        flags = flags | {"group_by"}
    _inherit(config, pretrained, flags, keys)


def take_split(config: ClassifierConfig, pretrained: dict | None, photos, flags: set[str]) -> None:
    """Put the split of a checkpoint into `config`, if it was trained on these photos.

    They are known by the fingerprint of their names, which are all that a split depends on: a
    folder may have moved, or be spelt otherwise. Photos that came or went in the same place keep
    the settings as well. A line on stderr says if the photos are not those of then. Raises
    `UserError` if a setting is not possible.
    """
    if not pretrained or not pretrained["config"]:  # weights that know of no split
        return
    fingerprint = pretrained["data_fingerprint"]
    same_names = photos.has_names_of(fingerprint)
    before = pretrained["config"]
    elsewhere = not same_names and config.data != before.get("data")
    lost = {key: before.get(key) for key in ("labels", "holdout") if key not in flags}
    told = ", ".join(f"--{key} {value}" for key, value in lost.items() if value)
    if elsewhere and told:
        print(
            f"note        --data {printable(config.data)} has other photos than "
            f"{printable(config.init)} learned from, so its {told} is not taken over",
            file=sys.stderr,
        )
    if same_names or config.data == pretrained["config"].get("data"):
        _inherit(config, pretrained, flags, ("labels", "holdout", "split_seed"))
        if not photos.is_known_as(fingerprint):
            seen = "" if same_names else ", so it may have seen some that are tested on now"
            print(
                f"note        --data {printable(config.data)} is not as it was when "
                f"{printable(config.init)} learned from it: photos came, went or changed{seen}",
                file=sys.stderr,
            )
        for key, none in (("classes_at", "auto"), ("group_by", "none")):
            before, now = pretrained["config"].get(key), getattr(config, key)
            if before != now:
                words = [
                    none if value is None else printable(str(value)) for value in (before, now)
                ]
                print(
                    f"note        {printable(config.init)} was trained with "
                    f"--{key.replace('_', '-')} {words[0]}, and this is {words[1]}: if other "
                    "photos are kept for the test now, it may have seen them, without their labels",
                    file=sys.stderr,
                )


def _inherit(config, pretrained: dict, flags: set[str], keys: tuple[str, ...]) -> None:
    """Put settings of a checkpoint into `config`, but for those that a flag sets."""
    before = pretrained["config"]
    for key in keys:
        # older checkpoints lack some; 0 labels are for pretraining alone
        if key not in flags and key in before and (key, before[key]) != ("labels", 0):
            inherit(config, key, before[key], config.init)
    try:
        check(config)
    except UserError as error:
        raise UserError(f"with the settings of {config.init}: {error}") from None
