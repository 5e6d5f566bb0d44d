"""Train a classifier from few labels, on random, BYOL or other weights, frozen or full.

    python train_classifier.py --init byol.pt --freeze               # a linear head, in seconds
    python train_classifier.py --init byol.pt                        # all weights, in minutes
    python train_classifier.py --init byol.pt --self-train 6         # from unlabelled photos too
    python train_classifier.py --init byol.pt --freeze --seeds 3     # three runs, for the spread

With --freeze a linear head learns on the encoder as it is; else all weights learn, as far as that
helps. With --representation combined the head sees inner blocks as well.
"""

from __future__ import annotations

import copy
import dataclasses
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F

from byol.command_line import command_for_several, parse
from byol.config import ClassifierConfig
from byol.encoder import check_inner_blocks
from byol.errors import Stopped, printable
from byol.evaluation.classifier import Classifier, some_rows
from byol.evaluation.classifier_run import ClassifierRun, take_settings, take_split
from byol.evaluation.features import confusion_matrix, share_features
from byol.evaluation.folds import Silent
from byol.evaluation.labelled import Labelled, check_classes, class_weights
from byol.evaluation.scores import Scores
from byol.evaluation.self_training import Lesson, count_kept, prepare_lesson, strong_view
from byol.hardware import distributed
from byol.hardware.batches import Batches
from byol.hardware.device import describe, set_up, to_device
from byol.hardware.step import LossScaler, prepare
from byol.optim import build_optimizer, set_lr
from byol.progress import say, silent
from byol.run import checkpoint
from byol.run.classifier_log import ClassifierLog
from byol.run.interrupt import Interrupt
from byol.run.start import read_start
from byol.views.augment import Augment
from data import make_split, open_photos


@command_for_several
def main(argv: list[str] | None = None) -> None:
    config, flags = parse(ClassifierConfig, argv, __doc__)
    if not config.freeze:
        distributed.refuse_several("train_classifier.py without --freeze takes one process")
    pretrained = read_start(config)
    if pretrained:
        take_settings(config, pretrained, flags)
        checkpoint.load_encoder(pretrained, config.init)  # raises before the photos are packed
    check_inner_blocks(config.blocks, config.arch, config.stem, config.image_size)
    photos = distributed.one_after_another(
        lambda: open_photos(**config.reading, progress=not silent())
    )
    take_split(config, pretrained, photos, flags)
    if not share_features(photos, *set_up(config.device, config.amp, config.deterministic)):
        return  # a helper of the first process
    try:
        for seed in range(config.seed, config.seed + config.seeds):
            train(dataclasses.replace(config, seed=seed), pretrained, photos)
    except Stopped:
        raise
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command with --resume goes on") from None


def train(
    config: ClassifierConfig,
    pretrained: dict | None,
    photos,
    say: Callable = say,
    tell: Callable = print,
) -> dict:
    """Train one classifier, from the checkpoint `pretrained` or from random weights: its summary.

    `say` gets what the run tells of its work, `tell` its result. A finished run is not repeated
    with --resume.
    """
    # ---- settings, labels, folder
    device, amp = set_up(config.device, config.amp, config.deterministic)
    check_classes(config, photos)
    seeds = config.split_seed, config.label_seed
    split = make_split(photos, config.labels, config.holdout, *seeds)
    labels = Labelled(config, photos, split, pretrained)  # what is trained and tested on; checked
    run = ClassifierRun(config, pretrained, photos, say)
    if run.summary:  # finished before, with the same settings, weights and photos
        return run.summary
    run.begin_about(photos, split, describe(device, amp))
    schedule = config.schedule(len(labels.train), count_kept(len(labels.unlabelled)))
    say(f"data        {labels}")

    # ---- encoder, head, and what a frozen encoder shows to the head
    classifier = build(config, pretrained, photos, device)
    extract = classifier.extractor(device, amp)
    say(describe_run(config, classifier, schedule, describe(device, amp)))
    features = None  # of a full model they change
    if config.freeze:
        features = extract(classifier.encoder, photos, labels.train)
    elif len(labels.test):
        rows = some_rows(labels.train)
        seen = rows, extract(classifier.encoder, photos, rows)
        labels.find_duplicates(extract, classifier.encoder, seen)

    # ---- cross-validation: how good it will be, and how sure it may be; then the classifier itself
    if labels.folds:
        cross_validate(config, classifier, pretrained, photos, labels, features, device, amp, run)
    lesson = begin(classifier, config, pretrained, photos, labels, labels.train, device, amp)
    log = fit(classifier, config, photos, labels.train, features, lesson, device, amp, run)
    if config.begins_with_head and labels.folds:
        classifier.go_to(labels.folds.share)

    # ---- the test, once, with the weights of the last epoch
    scores = labels.folds.scored() if labels.folds else None
    if len(labels.test):
        tested = extract(classifier.encoder, photos, labels.test, what="test images")
        if config.freeze:
            seen = labels.train, features
            labels.find_duplicates(extract, classifier.encoder, seen, tested)
        truth = labels.truth(labels.test, device)
        confusion = confusion_matrix(classifier.folded_head(), tested, truth)
        scores = Scores(confusion, photos.classes)
    classifier.know(photos, labels.split, device, amp)  # what it has seen, for later photos
    summary = run.finish(classifier, labels, scores, log)
    tell(scores.describe(labels.tested_on) if scores else "not tested: no labels are left")
    for text in (scores.warning() if scores else "", str(labels.duplicates or "")):
        if text:
            print(text, file=sys.stderr)
    return summary


def build(config: ClassifierConfig, pretrained: dict | None, photos, device) -> Classifier:
    """Build an untrained classifier on its device."""
    torch.manual_seed(config.seed)
    classifier = Classifier.begin(config, pretrained, photos.classes)
    classifier.stored_shape = photos.shape
    return prepare(classifier, device)


def cross_validate(
    config, untrained, pretrained, photos, labels, features, device, amp, run
) -> None:
    """Fill `labels.folds`: train a classifier without each fold, and let it score that fold.

    Each begins as a copy of `untrained`. A frozen encoder is shared.
    """
    shared = [untrained.encoder] if config.freeze else []
    folds, say = labels.folds, run.say
    trainings = len(folds.folds) * (folds.count - 1)
    if not config.freeze:
        say(f"folds       {folds}: as long as {trainings} more trainings; --folds 0 leaves it out")
    if config.resume:
        folds.restore(run.folder, run.settings)
    with Interrupt() as interrupt:
        for repeat, of_fold in folds.to_do():
            classifier = copy.deepcopy(untrained, {id(part): part for part in shared})
            some = features[~of_fold.to(device)] if config.freeze else None
            silent = Silent(interrupt, config.rate_flag)
            learned = labels.train[~of_fold]
            lesson = begin(classifier, config, pretrained, photos, labels, learned, device, amp)
            fit(classifier, config, photos, learned, some, lesson, device, amp, silent)
            extract = classifier.extractor(device, amp)
            for share in folds.shares:
                if config.begins_with_head:
                    classifier.go_to(share)
                unseen = (
                    features[of_fold.to(device)]
                    if config.freeze
                    else extract(classifier.encoder, photos, labels.train[of_fold])
                )
                scores = classifier.folded_head()(unseen)
                folds.note(repeat, of_fold, scores, config.rate_flag, share)
            folds.save(run.folder, run.settings)
    folds.choose_share()
    say(folds.describe())
    if config.begins_with_head:
        say(f"advice      by cross-validation {folds.advice()}")


def begin(classifier, config, pretrained, photos, labels, rows, device, amp) -> Lesson | None:
    """Let a full model begin with a head on the images `rows`; give what self-training learns.

    Random weights begin without one, unless they label the photos of a self-training.
    """
    if config.freeze or not (config.begins_with_head or config.blocks):
        return None
    some = some_rows(rows)
    features = classifier.extractor(device, amp)(classifier.encoder, photos, some)
    if not config.begins_with_head:
        classifier.standardise_while_training(features)
        return None
    temperature = classifier.begin_with_head(features, labels.truth(some, device))
    if not config.self_train:
        return None
    # of random weights the statistics say nothing of photos
    classifier.fixed_statistics = pretrained is not None
    classifier.temperature = temperature
    view = strong_view(pretrained, config.channels)
    lesson = prepare_lesson(classifier, photos, rows, labels.unlabelled, view, device, amp)
    classifier.temperature = None  # it was that of the first head
    return lesson


def fit(classifier, config, photos, rows, features, lesson, device, amp, run) -> ClassifierLog:
    """Train `classifier` on the images `rows`; `features` (N, width) are theirs if it is frozen.

    lesson: of self-training, of these rows and of unlabelled ones, or None. run: keeps it and goes
    on with it, or a `Silent`.
    """
    # ---- scaling of the features, views, optimizer
    schedule = config.schedule(len(rows), len(lesson.rows) - len(rows) if lesson else 0)
    if config.freeze:  # nothing in front of the head changes
        features = classifier.freeze(features)
    truth = torch.from_numpy(photos.labels[rows]).to(device)  # (N,)
    weights = class_weights(config.class_weights, truth, len(photos.classes))
    view, targets = config.view, truth
    if lesson:  # (M,) and (M, classes): probabilities
        view, rows, targets = lesson.view, lesson.rows, lesson.targets
        truth = targets.argmax(1)
    augment = Augment(view, 0, config.image_size, config.mean, config.std, config.seed)
    batches = Batches(photos, rows, schedule, "host", device)
    scaler = LossScaler(device, amp)
    groups = classifier.groups(config.encoder_scale)
    optimizer = build_optimizer(config.optimizer, groups, config.decay, scaler.enabled)
    log = run.open_log(schedule, config.rate_flag, device, config.tensorboard)

    # ---- go on where a stopped run was, or begin
    parts = {"model": classifier.learning, "optimizer": optimizer, "scaler": scaler}
    first_step = run.start(schedule, log=log, **parts)

    # ---- the loop
    classifier.train()
    with run, log:
        for step in range(first_step, schedule.total_steps):
            set_lr(optimizer, schedule.lr(step))
            chosen = to_device(schedule.positions(step), device)
            if config.freeze:
                scores = classifier.head(features[chosen])  # (N, classes)
            else:
                batch = batches.read(step)
                views = augment(batch.images, batch.sizes, batch.rows, step)  # (N, 3, S, S)
                scores = classifier(views, amp)
            parts = schedule.parts(len(scores))  # labelled images and, in self-training, others
            pairs = zip(scores.split(parts), targets[chosen].split(parts), strict=True)
            loss = sum(F.cross_entropy(of_part, wanted, weights) for of_part, wanted in pairs)
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            log.note(loss, scores, truth[chosen])
            log.after_step(step + 1)  # a line of the metrics, if an epoch ends
            run.after_step(step + 1)  # a checkpoint, if one is due; Stopped after Ctrl-C
    log.check(classifier.learning, schedule.total_steps)
    return log


def describe_run(config: ClassifierConfig, classifier: Classifier, schedule, device: str) -> str:
    """Write the lines of the banner that follow from the settings."""
    trained = "frozen" if config.freeze else "full"
    scale = config.encoder_scale
    of_encoder = "" if config.freeze else f" ({config.peak_lr * scale:g} of the encoder)"
    return (
        f"model       {config.arch} ({config.stem} stem) from {printable(config.init)}, {trained}; "
        f"{classifier.head.in_features:,} features: {', '.join(classifier.widths)}\n"
        f"device      {device}\n"
        f"schedule    {schedule.epochs} epochs, batch {schedule.batch_size}, "
        f"{config.optimizer}, peak rate {config.peak_lr:g}{of_encoder}, weight decay "
        f"{config.decay:g}"
        + (", balanced class weights" if config.class_weights == "balanced" else "")
    )


if __name__ == "__main__":
    sys.exit(main())
