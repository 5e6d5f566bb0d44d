"""What `evaluate.py` judges, and how: checkpoints, label counts, draws of the labels."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from byol.config import NAMING, ClassifierConfig
from byol.encoder import Encoder
from byol.errors import UserError, printable
from byol.evaluation.classifier_run import (
    can_go_on,
    read_if_finished,
    run_identity,
    start_of,
    take_settings,
)
from byol.evaluation.features import FeatureExtractor
from byol.evaluation.linear_and_knn import FeatureBank
from byol.files import same_photos
from byol.hardware.step import prepare
from byol.run import checkpoint
from byol.run.checkpoint import FROM_PRETRAINED
from byol.run.start import read_start


@dataclass
class Protocol:
    """How much is labelled, and how often and how long to train on it."""

    labels: str  # a count, or "all"
    seeds: int
    epochs: int  # of fine-tuning
    batch_size: int

    @property
    def count(self) -> int | None:
        return None if self.labels == "all" else int(self.labels)

    def draws(self, weights: Weights, seed: int) -> range:
        """List the draws of the labels to judge. Random weights have one draw for each seed."""
        if weights.pretrained is None:
            return range(seed, min(seed + 1, self.seeds))
        return range(self.seeds if self.count else 1)  # of all labels there is one draw


@dataclass
class Weights:
    """What is judged: a checkpoint, random weights, or weights of other origin."""

    name: str  # in the table: random, classic, multi; the file if there are several of a kind
    config: ClassifierConfig
    pretrained: dict | None = None
    encoder: Encoder | None = None
    digest: str = ""  # of the file, or of the weights

    def describe(self) -> dict:
        about = {"name": self.name, "file": self.config.init, "sha256": self.digest}
        return {**about, "config": self.pretrained["config"]}


def read_protocols(
    labels: list[str],
    seeds: list[str],
    epochs: list[str],
    batch_sizes: list[str],
    counts_flag: str = "--labels",
) -> list[Protocol]:
    """Build one protocol for each label count. Raises `UserError` for lists that do not fit."""
    labels = [parse_labels(text, counts_flag) for text in labels]
    if len(set(labels)) < len(labels):
        raise UserError(f"{counts_flag} {' '.join(labels)}: give each number once")
    columns = []
    for flag, values, least in (
        ("--seeds", seeds, 1),
        ("--epochs", epochs, 1),
        ("--batch-size", batch_sizes, 2),
    ):
        if len(values) not in (1, len(labels)):
            raise UserError(
                f"{flag}: give one number, or one for each of {counts_flag} {' '.join(labels)}"
            )
        numbers = [parse_count(value, flag, least) for value in values]
        columns.append(numbers * (len(labels) // len(numbers)))
    return [Protocol(*row) for row in zip(labels, *columns, strict=True)]


def parse_labels(text: str, flag: str) -> str:
    """Read a label count: a number without leading zeros, or "all". Raises `UserError`."""
    return "all" if text.lower() == "all" else str(parse_count(text, flag, 2))


def parse_count(text: str, flag: str, least: int) -> int:
    """Read a whole number. Raises `UserError` for anything else."""
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) >= least):
        or_all = " or all" if flag in ("--labels", "--curve") else ""
        raise UserError(
            f"{flag} must be a whole number of at least {least}{or_all}, not {printable(text)!r}"
        )
    return int(text)


def read_checkpoints(paths: list[str], config: ClassifierConfig, given: set) -> list[Weights]:
    """Read the checkpoints to judge. `given`: the settings that a flag set.

    Raises `UserError` for a file that cannot be read, comes twice, or is not like the first.
    """
    judged: list[Weights] = []
    for path in paths:
        pretrained = checkpoint.load_pretrained(path)
        settings = dataclasses.replace(copy.deepcopy(config), init=path)
        take_settings(settings, pretrained, given)
        digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        if any(other.digest == digest for other in judged):
            raise UserError(f"{path} is given twice, or is a copy of another; leave it out")
        encoder = checkpoint.load_encoder(pretrained, path)
        judged.append(Weights(losses_of(pretrained), settings, pretrained, encoder, digest))

    first = next((w for w in judged if w.name == "multi"), judged[0])  # it trained its blocks
    alike = [*FROM_PRETRAINED, "stored_side", *NAMING, "group_by"]
    for other in judged:
        fingerprints = (w.pretrained["data_fingerprint"] for w in (first, other))
        if not same_photos(*fingerprints):
            raise UserError(
                f"{other.config.init} was trained on other photos than {first.config.init}; "
                "judge together what shares them"
            )
        for key in ("holdout", "split_seed"):
            a, b = first.pretrained["config"][key], other.pretrained["config"][key]
            if a != b:
                raise UserError(
                    f"{other.config.init} has {key} {b} and {first.config.init} has {a}; "
                    "judge together what shares it"
                )
        blocks = ["inner_blocks", "inner_grids"]
        for key in alike + (blocks if other.name == "multi" else []):
            a, b = getattr(first.config, key), getattr(other.config, key)
            if a != b:
                raise UserError(
                    f"{other.config.init} has {key} {b} and {first.config.init} has {a}; "
                    "judge together what shares it"
                )
        for key in blocks:
            setattr(other.config, key, getattr(first.config, key))

    names = [weights.name for weights in judged]
    if len(set(names)) < len(names):
        for weights in judged:
            weights.name = weights.config.init
    return judged


def read_given(inits: list[str], first: Weights) -> list[Weights]:
    """Read weights of other origin (`--init`), to be judged as `first` is.

    Raises `UserError` for what does not fit its encoder, comes twice, or is no such weights.
    """
    given: list[Weights] = []
    for init in inits:
        config = dataclasses.replace(copy.deepcopy(first.config), init=init)
        start = read_start(config)
        if not start or start["config"]:
            raise UserError(
                f"--init {printable(init)}: give imagenet, or a file of other weights; random "
                "weights are always judged, and files of this project stand without --init"
            )
        digest = checkpoint.fingerprint_of(start["encoder"])
        if any(other.digest == digest for other in given):
            raise UserError(f"--init {printable(init)} is given twice, or is a copy of another")
        name = start_of(config, start)
        name = init if name in {first.name, "random", *(other.name for other in given)} else name
        given.append(Weights(name, config, start, checkpoint.load_encoder(start, init), digest))
    return given


def extract_bank(
    weights: Weights, seed: int, photos, rows: np.ndarray, config: ClassifierConfig, device, amp
) -> FeatureBank:
    """Compute the features of `rows` of `photos`; `seed` draws random weights."""
    torch.manual_seed(seed)
    encoder = weights.encoder or Encoder(config.arch, config.stem)
    prepare(encoder, device)
    extract = FeatureExtractor(
        image_size=config.image_size, mean=config.mean, std=config.std, device=device, amp=amp,
        inner_blocks=config.blocks, channels=config.channels,
    )  # fmt: skip
    values = extract(encoder, photos, rows, f"features, {printable(weights.name)}")
    return FeatureBank(values, rows, photos.labels, encoder.widths(config.blocks))


def settings_of(
    config: ClassifierConfig, weights: Weights, representation: str, protocol: Protocol, seed: int
) -> ClassifierConfig:
    """Give the settings of one run of train_classifier.py."""
    return dataclasses.replace(
        config,
        init=weights.config.init,
        representation=representation,
        labels=protocol.count,
        label_seed=label_seed(config, seed),
        seed=seed,
        epochs=protocol.epochs,
        batch_size=protocol.batch_size,
        folds=0,
    )


def train_or_take(
    train: Callable, folder: Path, settings: ClassifierConfig, weights: Weights, photos
) -> dict:
    """Do a run of train_classifier.py, or the rest of it, or take it if it is there: its summary.

    What is in the folder says whether it is this run. train: that of train_classifier.py.
    """
    settings = dataclasses.replace(settings, run_dir=str(folder))
    identity = run_identity(settings, weights.pretrained, photos)
    if summary := read_if_finished(folder, identity):
        return summary
    settings.resume = can_go_on(folder, identity)
    settings.overwrite = not settings.resume
    try:
        return train(settings, weights.pretrained, photos, quiet, quiet)
    except UserError as error:
        raise UserError(f"fine-tuning in {folder}: {error}") from None


def quiet(_text: str) -> None:
    """Leave out what a run says of itself: the table says it."""


def label_seed(config: ClassifierConfig, draw: int) -> int:
    """Give the label seed of a draw. Draw 0 is the one that pretraining knew."""
    return config.split_seed + draw


def losses_of(pretrained: dict) -> str:
    """Name the losses of a checkpoint, classic or multi. Earlier versions had the classic alone."""
    return "multi" if pretrained["config"].get("losses") == "multi" else "classic"
