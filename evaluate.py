"""Judge checkpoints: linear evaluation, nearest neighbours, fine-tuning, all in one table.

    python evaluate.py byol.pt byol_multi.pt
    python evaluate.py byol.pt byol_multi.pt --labels 250 all --seeds 3 1 --epochs 100 20

Two representations of each checkpoint and of random weights: the average pool alone, and combined
with inner blocks. Writes table.md, table.json and table.png. Stopped, the same command goes on:
fine-tuning runs that are finished are not repeated.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

import train_classifier
from byol import checkpoint, report
from byol.config import AMP, ClassifierConfig, Parser, parse
from byol.device import describe, keep_freed_memory, pick_amp, pick_device
from byol.encoder import Encoder, check_taps
from byol.errors import UserError, command
from byol.linear_eval import Features
from byol.probe import extract_features
from byol.report import Cell
from byol.run_folder import make_folder
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

    name: str  # in the table: random, classic, multi, or the file's name
    config: ClassifierConfig
    source: dict | None = None
    digest: str = ""  # of the file


@command
def main(argv: list[str] | None = None) -> None:
    # ---- what to judge, and how
    args = read_flags(argv)
    protocols = read_protocols(args)
    flags = [f"--{key}={value}" for key in ("data", "device", "amp", "lr")
             if (value := getattr(args, key)) is not None]  # fmt: skip
    config, given = parse(ClassifierConfig, flags, "cats_vs_dogs.toml")
    device = pick_device(config.device)
    amp = pick_amp(config.amp, device)
    keep_freed_memory()
    judged = read_checkpoints(args.checkpoints, config, given)
    config = dataclasses.replace(judged[0].config, init="random")
    random = Weights("random", config)
    taps = config.grids
    check_taps(taps, config.arch, config.stem, config.image_size)
    out = make_folder(args.out, "--out")
    photos = open_photos(config.data, config.stored_side)
    train_classifier.check_classes(config, photos)
    for protocol in protocols:  # raises where labels are too few, before hours of work
        train_classifier.pick_test_images(photos, split_of(photos, config, protocol, 0))
    print(
        f"data        {photos.source}: {len(photos.names):,} images of {len(photos.classes)} "
        f"classes\n"
        f"encoders    {config.arch} ({config.stem} stem), {config.image_size} px: "
        f"random weights, {', '.join(f'{w.name} ({w.config.init})' for w in judged)}\n"
        f"combined    avgpool, {', '.join(f'{tap} ({g} x {g})' for tap, g in taps.items())}\n"
        f"device      {describe(device, amp)}\n"
        f"results     {out}",
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
            encoder = Encoder(config.arch, config.stem)
            if weights.source:
                encoder = checkpoint.load_encoder(weights.source, weights.config.init)
            encoder.to(device, memory_format=torch.channels_last)
            values = extract_features(
                encoder, photos, rows, image_size=config.image_size, mean=config.mean,
                std=config.std, device=device, amp=amp, taps=taps, what=f"features, {weights.name}",
            )  # fmt: skip
            features = Features(values, rows, photos.labels, encoder.widths(taps))
            for protocol in protocols:
                for draw in draws(protocol, weights, seed):
                    judge_frozen(cells, features, photos, weights, protocol, draw)
    about["seconds_frozen"] = round(time.perf_counter() - started)
    report.write(out, cells, about)

    # ---- fine-tuned: the same label counts and draws, each a run of train_classifier.py
    if args.fine_tune:
        for protocol in protocols:
            for weights in (random, *judged):
                for name in ("avgpool", "combined"):
                    for seed in range(protocol.seeds):
                        fine_tune(cells, out, weights, name, protocol, seed)
                    report.write(out, cells, about)
        most = max(protocols, key=lambda p: float("inf") if p.count is None else p.count)
        epochs = judged[0].source["config"]["epochs"]
        if args.supervised_epochs is not None:
            epochs = args.supervised_epochs
        if epochs:
            longer = dataclasses.replace(most, epochs=epochs)
            supervised = dataclasses.replace(random, name=f"supervised, {epochs} epochs")
            for seed in range(longer.seeds):
                fine_tune(cells, out, supervised, "avgpool", longer, seed)
            report.write(out, cells, about)
    print(report.markdown(cells))
    print("\n".join(str(out / f"table.{kind}") for kind in ("md", "json", "png")))


def judge_frozen(cells, features, photos, weights, protocol, draw) -> None:
    """Linear evaluation and kNN of each representation, with one draw of the labels."""
    split = split_of(photos, weights.config, protocol, draw)
    _, test_rows = train_classifier.pick_test_images(photos, split)
    for name in report.FEATURES:
        scores = features.judge(name, split.labelled, test_rows, len(photos.classes))
        for kind, value in zip(("linear", "knn"), scores, strict=True):
            report.add(cells, weights.name, name, kind, protocol.labels, value)
        linear, knn = (f"{100 * score:.2f} %" for score in scores)
        what = f"{weights.name}, {name}, {protocol.labels} labels, draw {draw}"
        print(f"{what}: linear {linear}, kNN {knn}", flush=True)


def fine_tune(cells, out: Path, weights, name: str, protocol, seed: int) -> None:
    """One run of train_classifier.py, or its result where it is there already."""
    key = f"{weights.name.split(',')[0]}-{weights.digest[:8]}".rstrip("-")
    run_dir = out / "runs" / f"{key}-{name}-{protocol.labels}-{protocol.epochs}-seed{seed}"
    config = dataclasses.replace(
        weights.config,
        features=name,
        labels=protocol.count,
        label_seed=weights.config.split_seed + seed,
        seed=seed,
        epochs=protocol.epochs,
        batch_size=protocol.batch_size,
        run_dir=str(run_dir),
    )
    summary = finished(run_dir, config)
    if not summary:
        taps = {} if name == "avgpool" else config.grids
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            train_classifier.train(config, weights.source, taps)
        summary = finished(run_dir, config)
    value = summary["test_accuracy"]
    report.add(cells, weights.name, name, "fine-tuned", protocol.labels, value)
    print(f"{weights.name}, {name}, {protocol.labels} labels, seed {seed}: fine-tuned for "
          f"{protocol.epochs} epochs {100 * value:.2f} % ({summary['seconds']:.0f} s)",
          flush=True)  # fmt: skip


def finished(run_dir: Path, config: ClassifierConfig) -> dict | None:
    """The summary of a finished run with exactly these settings, if it is there."""
    settings, result = run_dir / "config.json", run_dir / "summary.json"
    try:
        if result.stat().st_mtime_ns < settings.stat().st_mtime_ns:
            return None  # of an earlier run: the summary is what a run writes last
        before = json.loads(settings.read_text(encoding="utf-8"))
        summary = json.loads(result.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return summary if before == dataclasses.asdict(config) else None


def split_of(photos, config: ClassifierConfig, protocol: Protocol, draw: int):
    """The split with the given draw of the labels; draw 0 is the one that pretraining knew."""
    label_seed = config.split_seed + draw
    return make_split(photos, protocol.count, config.holdout, config.split_seed, label_seed)


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
    add("--frozen-only", dest="fine_tune", action="store_false", help="no fine-tuning")
    add("--data", help="the images [those of pretraining]")
    add("--device", help="auto, cpu, cuda or cuda:N [auto]")
    add("--amp", choices=AMP, help="mixed precision [auto]")
    add("--lr", help="peak learning rate of fine-tuning")
    add("--out", default="evaluation", help="folder for tables and runs [evaluation]")
    args = parser.parse_args(argv)
    if args.supervised_epochs is not None:
        args.supervised_epochs = whole(args.supervised_epochs, "--supervised-epochs", 0)
    return args


def read_protocols(args) -> list[Protocol]:
    """One for each label count. Raises `UserError` for lists that do not fit."""
    labels = [text if text == "all" else str(whole(text, "--labels", 2)) for text in args.labels]
    if len(set(labels)) < len(labels):
        raise UserError(f"--labels {' '.join(labels)}: give each number once")
    columns = []
    for flag, values, least in (("--seeds", args.seeds, 1), ("--epochs", args.epochs, 1),
                                ("--batch-size", args.batch_size, 2)):  # fmt: skip
        if len(values) not in (1, len(labels)):
            raise UserError(f"{flag}: give one number, or one for each of --labels {args.labels}")
        numbers = [whole(value, flag, least) for value in values]
        columns.append(numbers * (len(labels) // len(numbers)))
    return [Protocol(*row) for row in zip(labels, *columns, strict=True)]


def whole(text: str, flag: str, least: int) -> int:
    """A whole number. Raises `UserError` for anything else."""
    if not text.isdecimal() or int(text) < least:
        raise UserError(f"{flag} must be a whole number of at least {least}, not {text!r}")
    return int(text)


def read_checkpoints(paths: list[str], config: ClassifierConfig, given: set) -> list[Weights]:
    """Raises `UserError` for a file that cannot be read, or is not like the first."""
    judged: list[Weights] = []
    for path in paths:
        source = checkpoint.load(path, checkpoint.ENCODER)
        own = dataclasses.replace(copy.deepcopy(config), init=path)
        train_classifier.take_settings(own, source, given)
        digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        judged.append(Weights(source["config"].get("losses", "classic"), own, source, digest))
    first = judged[0]
    for other in judged[1:]:
        alike = (*train_classifier.FROM_CHECKPOINT, "taps", "tap_grid", "store_size", "data")
        for key in alike:
            a, b = getattr(first.config, key), getattr(other.config, key)
            if a != b:
                raise UserError(
                    f"{other.config.init} has {key} {b} and {first.config.init} has {a}; "
                    "judge checkpoints together that share it"
                )
    names = [weights.name for weights in judged]
    for weights in judged:
        if names.count(weights.name) > 1:
            weights.name = Path(weights.config.init).stem
    return judged


if __name__ == "__main__":
    sys.exit(main())
