"""Judge checkpoints: linear evaluation, nearest neighbours, fine-tuning, all in one table.

    python evaluate.py byol.pt byol_multi.pt
    python evaluate.py byol.pt byol_multi.pt --labels 250 all --seeds 3 1 --epochs 100 20

Two representations of each checkpoint and of random weights: the average pool alone, and combined
with inner blocks. Writes table.md, table.json and table.png when all is done, and until then
unfinished.md, unfinished.json and unfinished.png. Stopped while fine-tuning, the same command goes
on, also inside a run.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import math
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

import train_classifier
from byol import checkpoint, report
from byol.classifier_run import (
    FROM_CHECKPOINT,
    can_go_on,
    finished,
    identity,
    take_settings,
)
from byol.config import AMP, FEATURES, ClassifierConfig, Parser, parse
from byol.device import describe, keep_freed_memory, pick_amp, pick_device
from byol.encoder import Encoder, check_taps
from byol.errors import Stopped, UserError, command, printable
from byol.labelled import check_classes, check_labelled, pick_test_images
from byol.linear_eval import Features
from byol.probe import extract_features
from byol.report import Cell
from byol.run_folder import clear_half_written, lock_run_folder, make_folder
from data import make_split, open_photos


@dataclass
class Protocol:
    """How much is labelled, and how often and how long to train on it."""

    labels: str  # a number, or "all"
    seeds: int
    epochs: int  # of fine-tuning
    batch_size: int

    @property
    def count(self) -> int | None:
        return None if self.labels == "all" else int(self.labels)


@dataclass
class Weights:
    """What is judged: a checkpoint, or random weights."""

    name: str  # in the table: random, classic, multi; the file where there are several of a kind
    config: ClassifierConfig
    source: dict | None = None
    encoder: Encoder | None = None
    digest: str = ""  # of the file


@command
def main(argv: list[str] | None = None) -> None:
    # ---- what to judge, and how
    args = read_flags(argv)
    protocols = read_protocols(args)
    flags = []
    for key in ("config", "data", "taps", "tap_grid", "device", "amp", "lr", "encoder_lr_scale"):
        if (value := getattr(args, key)) is not None:
            flags += [
                f"--{key.replace('_', '-')}",
                *(value if isinstance(value, list) else [value]),
            ]
    config, given = parse(ClassifierConfig, flags, "cats_vs_dogs.toml")
    device = pick_device(config.device)
    amp = pick_amp(config.amp, device)
    keep_freed_memory()
    judged = read_checkpoints(args.checkpoints, config, given)
    # the splits of all are those of the first
    config = dataclasses.replace(judged[0].config, init="random")
    random = Weights("random", config)
    taps = config.grids
    check_taps(taps, config.arch, config.stem, config.image_size)
    epochs = judged[0].source["config"]["epochs"]
    supervised_epochs = whole(str(epochs), f"epochs in {judged[0].config.init}", 1)
    if args.supervised_epochs is not None:
        supervised_epochs = whole(args.supervised_epochs, "--supervised-epochs", 0)

    out = make_folder(args.out, "--out")
    _lock = lock_run_folder(out, "--out")  # until main ends
    clear_half_written(out)
    photos = open_photos(config.data, config.stored_side)
    check_classes(config, photos)
    tested = {}
    for protocol in protocols:  # raises where labels are too few, before hours of work
        split = split_of(photos, config, protocol, 0)
        own = dataclasses.replace(config, labels=protocol.count)
        check_labelled(own, photos, split, least=2)
        kind, rows = pick_test_images(photos, split)
        tested[protocol.labels] = f"{len(rows):,} images ({kind})"
    print(
        f"data        {printable(photos.source)}: {len(photos.names):,} images of "
        f"{len(photos.classes)} classes; tested on {', '.join(dict.fromkeys(tested.values()))}\n"
        f"encoders    {config.arch} ({config.stem} stem), {config.image_size} px: "
        f"random weights, {printable(', '.join(f'{w.name} ({w.config.init})' for w in judged))}\n"
        f"combined    avgpool, {', '.join(f'{tap} ({g} x {g})' for tap, g in taps.items())}\n"
        f"device      {describe(device, amp)}\n"
        f"results     {printable(str(out))}",
        flush=True,
    )
    about = {
        "checkpoints": [
            {
                "name": weights.name,
                "file": weights.config.init,
                "sha256": weights.digest,
                "config": weights.source["config"],
            }
            for weights in judged
        ],
        "data": config.data,
        "fingerprint": photos.fingerprint,
        "tested_on": tested,
        "taps": taps,
        "device": describe(device, amp),
        "torch": torch.__version__,
    }
    cells: list[Cell] = []

    # ---- frozen: the features of all images once, then each label count and draw of the labels
    rows = (photos.labels >= 0).nonzero()[0]
    started = time.perf_counter()
    for weights in (random, *judged):
        for seed in range(max(p.seeds for p in protocols) if weights is random else 1):
            torch.manual_seed(seed)
            encoder = weights.encoder or Encoder(config.arch, config.stem)
            encoder.to(device, memory_format=torch.channels_last)
            features = extract_features(
                encoder, photos, rows, image_size=config.image_size, mean=config.mean,
                std=config.std, device=device, amp=amp, taps=taps,
                what=f"features, {printable(weights.name)}",
            )  # fmt: skip
            features = Features(features, rows, photos.labels, encoder.widths(taps))
            for protocol in protocols:
                for draw in draws(protocol, weights, seed):
                    split = split_of(photos, config, protocol, draw)
                    judge_frozen(cells, features, photos, split, weights, protocol, draw)
            features = None  # they are large, and the next ones come
    about["seconds_frozen"] = round(time.perf_counter() - started)
    report.write(out, "unfinished", cells, about)

    # ---- fine-tuned: the same label counts and draws, each a run of train_classifier.py
    def tune(weights: Weights, name: str, protocol: Protocol) -> None:
        for seed in range(protocol.seeds):
            fine_tune(cells, out, photos, weights, config, name, protocol, seed)
        report.write(out, "unfinished", cells, about)

    try:
        for protocol in protocols if args.fine_tune else ():
            for weights in (*judged, random):
                for name in ("avgpool", "combined"):
                    tune(weights, name, protocol)
        if args.fine_tune and supervised_epochs:
            most = max(protocols, key=lambda p: math.inf if p.count is None else p.count)
            supervised = dataclasses.replace(random, name=f"supervised, {supervised_epochs} epochs")
            tune(supervised, "avgpool", dataclasses.replace(most, epochs=supervised_epochs))
    except KeyboardInterrupt as interrupt:
        raise Stopped(
            f"what is finished is in {out / 'unfinished.md'}; the same command goes on",
            getattr(interrupt, "code", 130),
        ) from None
    report.write(out, "table", cells, about)
    report.remove(out, "unfinished")
    print(report.markdown(cells, tested))
    print("\n".join(printable(str(out / f"table.{kind}")) for kind in ("md", "json", "png")))


def judge_frozen(cells, features, photos, split, weights, protocol, draw) -> None:
    """Linear evaluation and kNN of each representation, with one draw of the labels."""
    _, test_rows = pick_test_images(photos, split)
    for name in FEATURES:
        linear, strength, knn = features.judge(name, split.labelled, test_rows, len(photos.classes))
        where = weights.name, name
        report.add(cells, *where, "linear", protocol.labels, linear, l2_strength=strength)
        report.add(cells, *where, "knn", protocol.labels, knn)
        print(
            f"{printable(weights.name)}, {name}, {protocol.labels} labels, draw {draw}: linear "
            f"{100 * linear:.2f} % (L2 strength {strength:g}), kNN {100 * knn:.2f} %",
            flush=True,
        )


def fine_tune(cells, out: Path, photos, weights, config, name: str, protocol, seed: int) -> None:
    """One run of train_classifier.py, the rest of one, or its result where it is there already.

    The name of its folder is for the reader: what is in it says whether it is this run.
    """
    start = f"{losses_of(weights.source)}-{weights.digest[:12]}" if weights.source else "random"
    run = f"{start}-{name}-{protocol.labels}-{protocol.epochs}epochs-seed{seed}"
    run_dir = out / "runs" / run
    own = dataclasses.replace(
        config,
        init=weights.config.init,
        features=name,
        labels=protocol.count,
        label_seed=label_seed(config, seed),
        seed=seed,
        epochs=protocol.epochs,
        batch_size=protocol.batch_size,
        run_dir=str(run_dir),
    )
    this = identity(own, weights.source, photos)
    summary = finished(run_dir, this)
    if not summary:
        taps = {} if name == "avgpool" else own.grids
        own.resume = can_go_on(run_dir, this)
        own.overwrite = not own.resume
        try:
            with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
                train_classifier.train(own, weights.source, taps)
        except UserError as error:
            raise UserError(f"fine-tuning in {run_dir}: {error}") from None
        summary = finished(run_dir, this)
    value = summary["test_accuracy"]
    report.add(cells, weights.name, name, "fine-tuned", protocol.labels, value)
    print(
        f"{printable(weights.name)}, {name}, {protocol.labels} labels, seed {seed}: fine-tuned for "
        f"{protocol.epochs} epochs {100 * value:.2f} % ({summary['seconds']:.0f} s)",
        flush=True,
    )


def label_seed(config: ClassifierConfig, draw: int) -> int:
    """Draw 0 is the one that pretraining knew."""
    return config.split_seed + draw


def split_of(photos, config: ClassifierConfig, protocol: Protocol, draw: int):
    """The split with the given draw of the labels."""
    seeds = config.split_seed, label_seed(config, draw)
    return make_split(photos, protocol.count, config.holdout, *seeds)


def draws(protocol: Protocol, weights: Weights, seed: int) -> range:
    """The draws of the labels to judge. Random weights are new at each seed, with one draw."""
    if weights.source is None:
        return range(seed, min(seed + 1, protocol.seeds))
    return range(protocol.seeds if protocol.count else 1)  # of all labels there is one draw


def read_flags(argv: list[str] | None):
    parser = Parser(description=__doc__.splitlines()[0], allow_abbrev=False)
    each = "one for all, or one for each of --labels"
    add = parser.add_argument
    add("checkpoints", nargs="+", help="files that train_byol.py wrote")
    add("--labels", nargs="+", default=["250"], help="numbers of labelled images, or all [250]")
    add("--seeds", nargs="+", default=["3"], help=f"runs of what is random: {each} [3]")
    add("--epochs", nargs="+", default=["100"], help=f"epochs of fine-tuning: {each} [100]")
    add("--batch-size", nargs="+", default=["50"], help=f"of fine-tuning: {each} [50]")
    add("--supervised-epochs", help="epochs from random weights on the most labels; 0 is none "
        "[as many as pretraining had]")  # fmt: skip
    add("--config", help="TOML file whose [classifier] says how to fine-tune, but for what is a "
        "flag here [configs/cats_vs_dogs.toml]")  # fmt: skip
    add("--frozen-only", dest="fine_tune", action="store_false", help="no fine-tuning")
    add("--data", help="the images [those of pretraining]")
    add("--taps", nargs="+", help="inner blocks of the combined representation [the checkpoints']")
    add("--tap-grid", nargs="+", help="side of the grid of each tap [the checkpoints']")
    add("--device", help="auto, cpu, cuda or cuda:N [auto]")
    add("--amp", choices=AMP, help="mixed precision [auto]")
    add("--lr", help="peak learning rate of fine-tuning")
    add("--encoder-lr-scale", help="rate of a pretrained encoder in it, as a multiple of --lr")
    add("--out", default="evaluation", help="folder for tables and runs [evaluation]")
    return parser.parse_args(argv)


def read_protocols(args) -> list[Protocol]:
    """One for each label count. Raises `UserError` for lists that do not fit."""
    texts = [text.lower() for text in args.labels]
    labels = [text if text == "all" else str(whole(text, "--labels", 2)) for text in texts]
    if len(set(labels)) < len(labels):
        raise UserError(f"--labels {' '.join(labels)}: give each number once")
    columns = []
    for flag, values, least in (("--seeds", args.seeds, 1), ("--epochs", args.epochs, 1),
                                ("--batch-size", args.batch_size, 2)):  # fmt: skip
        if len(values) not in (1, len(labels)):
            raise UserError(
                f"{flag}: give one number, or one for each of --labels {' '.join(labels)}"
            )
        numbers = [whole(value, flag, least) for value in values]
        columns.append(numbers * (len(labels) // len(numbers)))
    return [Protocol(*row) for row in zip(labels, *columns, strict=True)]


def whole(text: str, flag: str, least: int) -> int:
    """A whole number. Raises `UserError` for anything else."""
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) >= least):
        or_all = " or all" if flag == "--labels" else ""
        raise UserError(
            f"{flag} must be a whole number of at least {least}{or_all}, not {printable(text)!r}"
        )
    return int(text)


def read_checkpoints(paths: list[str], config: ClassifierConfig, given: set) -> list[Weights]:
    """Raises `UserError` for a file that cannot be read, comes twice, or is not like the first."""
    judged: list[Weights] = []
    for path in paths:
        source = checkpoint.load(path, checkpoint.ENCODER)
        own = dataclasses.replace(copy.deepcopy(config), init=path)
        take_settings(own, source, given)
        digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        if any(other.digest == digest for other in judged):
            raise UserError(f"{path} is given twice, or is a copy of another; leave it out")
        encoder = checkpoint.load_encoder(source, path)
        judged.append(Weights(losses_of(source), own, source, encoder, digest))

    first = next((w for w in judged if w.name == "multi"), judged[0])  # its taps were trained
    alike = [*FROM_CHECKPOINT, "data", "stored_side", "holdout", "split_seed"]
    for other in judged:
        taps = ["taps", "tap_grid"] if other.name == "multi" else []
        for key in alike + taps:
            a, b = getattr(first.config, key), getattr(other.config, key)
            if a != b:
                raise UserError(
                    f"{other.config.init} has {key} {b} and {first.config.init} has {a}; "
                    "judge together what shares it"
                )
        other.config.taps, other.config.tap_grid = first.config.taps, first.config.tap_grid

    names = [weights.name for weights in judged]
    if len(set(names)) < len(names):
        for weights in judged:
            weights.name = weights.config.init
    return judged


def losses_of(source: dict) -> str:
    """classic or multi. Checkpoints from before there was a choice are classic."""
    return "multi" if source["config"].get("losses") == "multi" else "classic"


if __name__ == "__main__":
    sys.exit(main())
