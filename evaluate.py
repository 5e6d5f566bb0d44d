"""Judge checkpoints: linear evaluation, nearest neighbours, fine-tuning, all in one table.

    python evaluate.py byol.pt --frozen-only               # without fine-tuning
    python evaluate.py byol.pt --init imagenet             # torchvision's weights beside ours
    python evaluate.py byol.pt byol_multi.pt --labels 250 all
    python evaluate.py byol.pt --curve                     # accuracy against the number of labels

Two representations of each checkpoint and of random weights: the average pool alone, and combined
with inner blocks. Writes table.md, table.json and table.png when all is done, and until then
unfinished.md, unfinished.json and unfinished.png. Stopped while fine-tuning, the same command goes
on, also inside a run.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch

import train_classifier
from byol.command_line import Parser, command_for_several, parse
from byol.config import AMP, PACKS, REPRESENTATIONS, ClassifierConfig
from byol.encoder import check_inner_blocks
from byol.errors import Stopped, UserError, note, printable
from byol.evaluation import curve, judging
from byol.evaluation.classifier_run import take_split
from byol.evaluation.features import share_features
from byol.evaluation.labelled import check_classes
from byol.evaluation.protocol import (
    Protocol,
    Weights,
    extract_bank,
    label_seed,
    parse_count,
    parse_labels,
    read_checkpoints,
    read_given,
    read_protocols,
)
from byol.hardware import distributed
from byol.hardware.device import describe, set_up
from byol.hardware.distributed import is_first
from byol.progress import say, silent
from byol.report import label_curve, table, table_files
from byol.run.about import current_command
from byol.run.folder import clear_half_written, lock_run_folder, make_folder
from byol.run.start import imagenet_file
from data import make_split, open_photos

TO_CLASSIFIER = (  # flags that are settings of train_classifier.py
    *("config", "data", "classes_at", "labelled", "labels_file", "label_pattern", "group_by"),
    *("pack", "inner_blocks", "inner_grids"),
    *("device", "amp", "lr", "encoder_lr_scale"),
)


@command_for_several
def main(argv: list[str] | None = None) -> None:
    # ---- what to judge, and how
    args = read_flags(argv)
    if args.fine_tune:
        distributed.refuse_several("evaluate.py without --frozen-only takes one process")
    protocols = read_what(args)
    config, given = parse(ClassifierConfig, flags_for_classifier(args))
    device, amp = set_up(config.device, config.amp)
    judged = read_checkpoints(args.checkpoints, config, given)
    config = judged[0].config
    check_inner_blocks(config.blocks, config.arch, config.stem, config.image_size)
    supervised_epochs = read_supervised_epochs(args, judged[0])
    imagenet = find_imagenet(config) if args.curve is not None else []
    judged += read_given(list(dict.fromkeys([*args.init, *imagenet])), judged[0])

    if is_first():
        out = make_folder(args.out, "--out")
        _lock = lock_run_folder(out, "--out")  # until main ends
        clear_half_written(out)
    photos = distributed.one_after_another(
        lambda: open_photos(**config.reading, progress=not silent())
    )
    if not share_features(photos, device, amp):
        return  # a helper of the first process
    take_split(config, judged[0].pretrained, photos, given)  # that of all is that of the first
    config = dataclasses.replace(config, init="random")
    random = Weights("random", config)
    check_classes(config, photos)
    if args.curve is not None:
        judge_curve(args, protocols, out, photos, config, random, judged, device, amp)
        return
    tested = {
        p.labels: judging.describe_test(photos, split_of(photos, config, p, 0), config, p)
        for p in protocols
    }
    say(describe_run(photos, tested, config, judged, describe(device, amp), out))
    about = {
        "checkpoints": [weights.describe() for weights in judged],
        "data": config.data,
        "fingerprint": photos.fingerprint,
        "tested_on": tested,
        "inner_blocks": config.blocks,
        "device": describe(device, amp),
        "torch": torch.__version__,
        "command": current_command(),
    }
    cells: list[table.Cell] = []

    # ---- frozen, then fine-tuned; what is finished is kept on the way
    started = time.perf_counter()
    judge_all_frozen(cells, photos, [random, *judged], config, protocols, device, amp)
    about["seconds_frozen"] = round(time.perf_counter() - started)
    table_files.write(out, "unfinished", cells, about)
    if args.fine_tune:
        keep = functools.partial(table_files.write, out, "unfinished", cells, about)
        fine_tune_all(
            cells, out, photos, judged, random, config, protocols, supervised_epochs, keep
        )
    table_files.write(out, "table", cells, about)
    table_files.remove(out, "unfinished")
    print(table.markdown(cells, tested))
    print("\n".join(printable(str(out / f"table.{kind}")) for kind in ("md", "json", "png")))


def judge_all_frozen(cells, photos, all_weights, config, protocols, device, amp) -> None:
    """Add the frozen cells of all weights, the first of which are random.

    The features of all images are computed once, then used for each label count and draw.
    """
    with_class = (photos.labels >= 0).nonzero()[0]
    for weights in all_weights:
        of_random = weights is all_weights[0]
        for seed in range(max(p.seeds for p in protocols) if of_random else 1):
            bank = extract_bank(weights, seed, photos, with_class, config, device, amp)
            for protocol in protocols:
                for draw in protocol.draws(weights, seed):
                    split = split_of(photos, config, protocol, draw)
                    judge_frozen(cells, bank, photos, split, weights, protocol, draw)
            bank = None  # it is large, and the next one comes


def fine_tune_all(
    cells, out, photos, judged, random, config, protocols, supervised_epochs, keep
) -> None:
    """Add the fine-tuned cells: the same label counts and draws, each a run of train_classifier.py.

    keep: is called after each protocol of weights and representation. Raises `Stopped`.
    """

    def tune(weights: Weights, representation: str, protocol: Protocol) -> None:
        for seed in range(protocol.seeds):
            fine_tune(cells, out, photos, weights, config, representation, protocol, seed)
        keep()

    try:
        for protocol in protocols:
            for weights in (*judged, random):
                for representation in REPRESENTATIONS:
                    tune(weights, representation, protocol)
        if supervised_epochs:
            most = max(protocols, key=lambda p: math.inf if p.count is None else p.count)
            supervised = dataclasses.replace(random, name=f"supervised, {supervised_epochs} epochs")
            tune(supervised, "avgpool", dataclasses.replace(most, epochs=supervised_epochs))
    except KeyboardInterrupt as interrupt:
        raise Stopped(
            f"what is finished is in {out / 'unfinished.md'}; the same command goes on",
            getattr(interrupt, "code", 130),
        ) from None


def read_flags(argv: list[str] | None):
    parser = Parser(description=__doc__, usage="%(prog)s FILE... [options]")
    each = "one for all, or one for each of --labels"
    add = parser.add_argument
    add("checkpoints", metavar="FILE", nargs="+", help="files that train_byol.py wrote")
    add("--init", nargs="+", default=[], metavar="FILE",
        help="other weights to judge: imagenet (torchvision's), or state dicts")  # fmt: skip
    add("--curve", metavar="N", nargs="*",
        help="accuracy against the number of labels "
        f"[{' '.join(curve.COUNTS)}]")  # fmt: skip
    add("--labels", metavar="N", nargs="+", help="numbers of labelled images, or all [250]")
    add("--seeds", metavar="N", nargs="+", default=["3"],
        help=f"runs of what is random: {each} [3]")  # fmt: skip
    add("--epochs", metavar="N", nargs="+", help=f"epochs of fine-tuning: {each} [100]")
    add("--batch-size", metavar="N", nargs="+", default=["50"], help=f"of fine-tuning: {each} [50]")
    add("--supervised-epochs", metavar="N",
        help="from random weights on the most labels; 0: none [pretraining's]")  # fmt: skip
    add("--config", metavar="FILE", help="TOML file whose [classifier] says how to fine-tune")
    add("--representation", metavar="X", choices=REPRESENTATIONS, help="of --curve [combined]")
    add("--frozen-only", dest="fine_tune", action="store_false", help="no fine-tuning")
    add("--data", metavar="X", help="the images [those of pretraining]")
    add("--classes-at", metavar="N", help="as for train_byol.py [that of pretraining]")  # fmt: skip
    add("--labelled", metavar="X", help="as for train_byol.py, and so are --labels-file, "
        "--label-pattern, --group-by")  # fmt: skip
    for flag in ("--labels-file", "--label-pattern", "--group-by"):
        add(flag, metavar="X", help=argparse.SUPPRESS)
    add("--skip-broken", action="store_true", help="as for train_byol.py")
    add("--pack", metavar="X", choices=PACKS,
        help=f"as for train_byol.py ({', '.join(PACKS)}) [that of pretraining]")  # fmt: skip
    add("--inner-blocks", metavar="X", nargs="+",
        help="inner blocks of the combined representation [the checkpoints']")  # fmt: skip
    add("--inner-grids", metavar="N", nargs="+",
        help="side of the grid of each block [the checkpoints']")  # fmt: skip
    add("--device", metavar="X", help="auto, cpu, cuda, cuda:N or mps [auto]")
    add("--amp", metavar="X", choices=AMP, help=f"mixed precision ({', '.join(AMP)}) [auto]")
    add("--lr", metavar="X", help="peak learning rate of fine-tuning")
    add("--encoder-lr-scale", metavar="X",
        help="rate of a pretrained encoder in it, as a multiple of --lr")  # fmt: skip
    add("--out", metavar="FOLDER", default="evaluation",
        help="folder for tables and runs [evaluation]")  # fmt: skip
    return parser.parse_args(argv)


def read_what(args) -> list[Protocol]:
    """Read how much is labelled, and how to train. Raises `UserError` for what does not fit."""
    if args.curve is None:
        if args.representation:
            raise UserError("--representation is for --curve; the table has both")
        labels, epochs = args.labels or ["250"], args.epochs or ["100"]
        return read_protocols(labels, args.seeds, epochs, args.batch_size)
    if len(args.checkpoints) > 1:
        raise UserError("--curve judges one file: leave the others out, or give --init for weights "
                        "of other origin")  # fmt: skip
    if args.supervised_epochs is not None:
        raise UserError("--supervised-epochs is for the table; --curve trains from scratch with "
                        "each label count, for --epochs")  # fmt: skip
    counts, of_sentence = args.curve or list(curve.COUNTS), args.labels or []
    if len(of_sentence) > 1:
        raise UserError("--labels: with --curve give one number, that of the sentence")
    if of_sentence and parse_labels(of_sentence[0], "--labels") not in counts:
        counts += of_sentence
    return read_protocols(counts, args.seeds, args.epochs or ["100"], args.batch_size, "--curve")


def find_imagenet(config: ClassifierConfig) -> list[str]:
    """Give `imagenet` if torchvision has its weights on this machine. A line says if not."""
    path = imagenet_file(config.arch)
    if config.stem != "imagenet" or not path.exists():
        why = f"there is no {path}" if config.stem == "imagenet" else f"no {config.stem} stem"
        say(f"note        no curve of ImageNet weights ({printable(why)}); --init imagenet "
            "downloads them")  # fmt: skip
        return []
    return ["imagenet"]


def flags_for_classifier(args) -> list[str]:
    """Write those flags that are settings of `train_classifier.py` as its command line.

    The blocks are those of the combined representation, which is judged beside the average pool.
    """
    flags = ["--representation", "combined", *["--skip-broken"] * args.skip_broken]
    for key in TO_CLASSIFIER:
        if (value := getattr(args, key)) is not None:
            flags.append(f"--{key.replace('_', '-')}")
            flags += value if isinstance(value, list) else [value]
    return flags


def read_supervised_epochs(args, first: Weights) -> int:
    """Read how long to train from random weights: as long as pretraining, unless a flag says."""
    if args.supervised_epochs is not None:
        return parse_count(args.supervised_epochs, "--supervised-epochs", 0)
    epochs = first.pretrained["config"]["epochs"]
    return parse_count(str(epochs), f"epochs in {first.config.init}", 1)


# ---- --curve


def judge_curve(args, protocols, out: Path, photos, config, random, judged, device, amp) -> None:
    """Judge with each label count and draw what has no result yet; write the label curve."""
    # ---- the test, the same for all, and the counts that there are labels for
    seeds = config.holdout, config.split_seed
    photos, test, tested_on = curve.set_test_apart(photos, make_split(photos, None, *seeds))
    pool = make_split(photos, None, *seeds).labelled
    protocols, left_out = curve.keep_fitting(protocols, photos, pool)
    for labels, reason in left_out.items():
        note(f"{labels} labels are left out: {reason}")
    counts = {p.labels: p.count or len(pool) for p in protocols}
    if not args.epochs:
        curve.take_epochs_by_rule(protocols, counts)

    # ---- what is to be done
    def draw_labels(protocol: Protocol, draw: int) -> np.ndarray:
        return split_of(photos, config, protocol, draw).labelled

    representation = args.representation or "combined"
    lines = curve.lines_of(random, judged[0], judged[1:], args.fine_tune)
    tasks = curve.plan(lines, protocols, photos, test, config, representation, draw_labels)
    results = curve.Results(out / "label_curve_results.json")
    asked = args.labels[0].lower() if args.labels else str(config.labels or "all")
    about = {
        **curve.describe_tested(photos, test, tested_on, judged[0]),
        "counts": list(counts.values()),
        "count": counts.get(asked, max(counts.values())),  # that of the sentence
        "left_out": left_out,
        "epochs": {counts[p.labels]: p.epochs for p in protocols} if args.fine_tune else {},
        "representation": representation,
        "image_size": config.image_size,
        "data": config.data,
        "fingerprint": photos.fingerprint,
        "command": current_command(),
        "weights": [weights.describe() for weights in judged],
        "device": describe(device, amp),
        "torch": torch.__version__,
    }
    speed = 0.0
    if not all(map(results.of, tasks)):
        speed = curve.measure_speed(judged[0], photos, test, config, device, amp)
    say(describe_curve(photos, judged, about, out))
    say(curve.describe_plan(tasks, results, test, speed))

    try:
        # ---- frozen: the features that are needed, once, then each count and draw
        for group in curve.by_bank(tasks, results):
            curve.judge_group(group, results, photos, test, device, amp)
        content = write_curve(out, lines, tasks, results, about)

        # ---- all weights: each a run of train_classifier.py; the picture after each count
        trained = [task for task in tasks if not task.line.frozen and not results.of(task)]
        for _, of_count in itertools.groupby(trained, key=lambda task: task.count):
            for task in of_count:
                runs = out / "label_curve_runs"
                curve.train_task(train_classifier.train, task, results, photos, runs)
            content = write_curve(out, lines, tasks, results, about)
    except KeyboardInterrupt as interrupt:
        raise Stopped(
            f"what is finished is in {results.path}; the same command goes on",
            getattr(interrupt, "code", 130),
        ) from None
    print(f"{content['table']}\n{content['sentence']}")
    for kind in ("md", "json", "png"):
        print(printable(str(out / f"{label_curve.NAME}.{kind}")))


def write_curve(out: Path, lines, tasks, results: curve.Results, about: dict) -> dict:
    """Write picture, table and sentence of the results so far."""
    return label_curve.write(out, curve.content_of(lines, tasks, results, about))


def describe_curve(photos, judged, about: dict, out: Path) -> str:
    """Write the banner."""
    return (
        f"data        {printable(photos.source)}; all are tested on the same {about['tested']:,} "
        f"images ({about['tested_on']})\n{photos.describe_classes()}\n"
        f"weights     random, {printable(', '.join(w.config.init for w in judged))}; "
        f"{about['representation']} features\n"
        f"device      {about['device']}\n"
        f"results     {printable(str(out))}"
    )


# ---- the table


def describe_run(photos, tested: dict, config, judged, device: str, out: Path) -> str:
    """Write the banner."""
    blocks = ", ".join(f"{block} ({grid} x {grid})" for block, grid in config.blocks.items())
    return (
        f"data        {printable(photos.source)}: {len(photos.names):,} images of "
        f"{len(photos.classes)} classes; tested on {', '.join(dict.fromkeys(tested.values()))}\n"
        f"{photos.describe_classes()}\n"
        f"encoders    {config.arch} ({config.stem} stem), {config.image_size} px: "
        f"random weights, {printable(', '.join(f'{w.name} ({w.config.init})' for w in judged))}\n"
        f"combined    avgpool, {blocks}\n"
        f"device      {device}\n"
        f"results     {printable(str(out))}"
    )


def judge_frozen(cells, bank, photos, split, weights, protocol, draw) -> None:
    """Judge each representation by linear evaluation and kNN, with one draw of the labels."""
    for representation, linear, strength, knn in judging.scores_of(bank, photos, split):
        for kind, scores, chosen in (("linear", linear, strength), ("knn", knn, None)):
            place = weights.name, representation, kind, protocol.labels
            uneven = judging.of_uneven_classes(scores)
            table.add(cells, *place, scores.accuracy, l2_strength=chosen, **uneven)
        say(
            f"{printable(weights.name)}, {representation}, {protocol.labels} labels, draw {draw}: "
            f"linear {100 * linear.accuracy:.2f} % (L2 strength {strength:g}), "
            f"kNN {100 * knn.accuracy:.2f} %"
            + (f"; linear, balanced {linear.describe_classes()}" if linear.uneven else "")
        )


def fine_tune(
    cells, out: Path, photos, weights, config, representation: str, protocol, seed: int
) -> None:
    """Do one run of train_classifier.py, the rest of one, or take its result if it is there."""
    about = weights, config, representation, protocol, seed
    summary = judging.fine_tuned(train_classifier.train, out / "runs", photos, *about)
    value = summary["test_accuracy"]
    place = weights.name, representation, "fine-tuned", protocol.labels
    table.add(cells, *place, value, **judging.of_uneven_run(summary))
    say(
        f"{printable(weights.name)}, {representation}, {protocol.labels} labels, seed {seed}: "
        f"fine-tuned for {protocol.epochs} epochs {100 * value:.2f} % "
        f"({summary['seconds']:.0f} s)"
    )


def split_of(photos, config: ClassifierConfig, protocol: Protocol, draw: int):
    """Make the split with the given draw of the labels."""
    seeds = config.split_seed, label_seed(config, draw)
    return make_split(photos, protocol.count, config.holdout, *seeds)


if __name__ == "__main__":
    sys.exit(main())
