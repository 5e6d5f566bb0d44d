"""Train a classifier from few labels, on random or BYOL weights, frozen or full.

    python train_classifier.py --init random
    python train_classifier.py --init byol.pt --freeze --seeds 3     # three runs, for the spread

With --freeze the encoder stays as it is, bit for bit, and a linear head learns on its features;
without it everything learns. With --features combined the head sees inner blocks as well.
"""

from __future__ import annotations

import dataclasses
import math
import os
import sys
import time
from pathlib import Path
from typing import NoReturn

import torch
import torch.nn.functional as F
from torch import nn

from byol import checkpoint
from byol.augment import CROP_AND_FLIP, Augment
from byol.classifier_run import (
    FROM_CHECKPOINT,
    NO_IDENTITY,
    finished,
    holds_another,
    identity,
    take_settings,
)
from byol.config import ClassifierConfig, parse
from byol.device import (
    autocast,
    describe,
    keep_freed_memory,
    pick_amp,
    pick_device,
    set_deterministic,
)
from byol.encoder import Encoder, check_taps
from byol.errors import Stopped, UserError, command, printable
from byol.image_ops import to_device
from byol.interrupt import Interrupt
from byol.labelled import check_classes, check_holdout, check_labelled, pick_test_images
from byol.loader import gather, positions_at
from byol.metrics import MetricsFile, progress, write_json
from byol.optim import build_optimizer, parameter_groups, set_lr
from byol.probe import RunningStandardise, Standardise, accuracy, combine, extract_features
from byol.run_folder import (
    LAST,
    check_same_settings,
    holds_a_run,
    open_run_folder,
    remove_states,
)
from byol.schedules import lr_at
from data import make_split, open_photos


@command
def main(argv: list[str] | None = None) -> None:
    config, flags = parse(ClassifierConfig, argv, "cats_vs_dogs.toml")
    source = None if config.init == "random" else checkpoint.load(config.init, checkpoint.ENCODER)
    if source:
        take_settings(config, source, flags)
        checkpoint.load_encoder(source, config.init)  # raises before the photos are packed
    taps = {} if config.features == "avgpool" else config.grids
    check_taps(taps, config.arch, config.stem, config.image_size)
    if config.freeze and (given := flags & {"lr", "weight_decay"}):
        flag = sorted(given)[0].replace("_", "-")
        raise UserError(f"--{flag} is for the full model; with --freeze give --frozen-{flag}")
    if config.freeze and "encoder_lr_scale" in flags:
        raise UserError("--encoder-lr-scale is for the full model; leave it or --freeze out")
    if not taps and (given := flags & {"taps", "tap_grid"}):
        flag = sorted(given)[-1].replace("_", "-")
        raise UserError(f"--{flag} is for --features combined: add that")
    if config.seeds > 1 and config.run_dir:
        raise UserError("--run-dir names the folder of one run; with --seeds give --runs instead")
    if config.resume and config.overwrite:
        raise UserError("--resume and --overwrite exclude each other: give one")
    try:
        for seed in range(config.seed, config.seed + config.seeds):
            train(dataclasses.replace(config, seed=seed), source, taps)
    except Stopped:
        raise
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command with --resume goes on") from None


def train(config: ClassifierConfig, source: dict | None, taps: dict[str, int]) -> None:
    """One run, from the weights of `source` (a checkpoint) or from random ones.

    The head sees the representation and the outputs of `taps` (see `Encoder.outputs`).
    """
    # ---- encoder and data
    set_deterministic(config.deterministic)
    device = pick_device(config.device)
    keep_freed_memory()
    amp = pick_amp(config.amp, device)
    init = "random" if source is None else "byol"
    part = "frozen" if config.freeze else "full"
    name = f"classifier-{init}-{part}"
    name += f"-{config.features}" if taps else ""
    name += f"-seed{config.seed}" if config.seed else ""
    run_dir = Path(config.run_dir or Path(config.runs) / name)
    going_on = config.resume and holds_a_run(run_dir)
    run_dir, _lock = open_run_folder(run_dir, resume=going_on, overwrite=config.overwrite)

    photos = open_photos(config.data, config.stored_side)
    check_classes(config, photos)
    split = make_split(photos, config.labels, config.holdout, config.split_seed, config.label_seed)
    check_holdout(config, photos, source)
    check_labelled(config, photos, split)
    tested_on, test_rows = pick_test_images(photos, split)
    classes, count = photos.classes, len(split.labelled)
    run = identity(config, source, photos)
    if config.resume and finished(run_dir, run):
        remove_states(run_dir)
        print(f"{run_dir} holds this run, finished", flush=True)
        return
    if not (going_on or config.overwrite) and holds_another(run_dir, run):
        raise UserError(
            f"{run_dir} holds a finished run of other settings, weights or images: give "
            "--overwrite to replace it, or another --runs or --run-dir to keep it"
        )
    state = checkpoint.load_state(run_dir) if going_on else None
    if state:
        check_same_settings(state["config"], run, NO_IDENTITY, set(), run_dir)

    torch.manual_seed(config.seed)
    if source:
        encoder = checkpoint.load_encoder(source, config.init)
    else:
        encoder = Encoder(config.arch, config.stem)
    widths = encoder.widths(taps)
    head = nn.Linear(sum(widths.values()), len(classes))
    encoder.to(device, memory_format=torch.channels_last)
    head.to(device)
    groups = parameter_groups(head)
    encoder_scale = config.encoder_lr_scale if source else 1.0
    if not config.freeze:
        groups += [{**group, "lr_scale": encoder_scale} for group in parameter_groups(encoder)]
    lr = config.frozen_lr if config.freeze else config.lr
    decay = config.frozen_weight_decay if config.freeze else config.weight_decay
    of_encoder = "" if config.freeze else f" ({lr * encoder_scale:g} of the encoder)"
    scaled = amp == torch.float16
    optimizer = build_optimizer(config.optimizer, groups, decay, scaled)
    scaler = torch.amp.GradScaler(device.type, enabled=scaled)
    print(
        f"data        {printable(photos.source)}: {count:,} labelled images of "
        f"{len(classes)} classes; tested on {len(test_rows):,} ({tested_on}); "
        f"{len(photos.skipped):,} files skipped\n"
        f"model       {config.arch} ({config.stem} stem) from {printable(config.init)}, {part}; "
        f"{head.in_features:,} features: {', '.join(widths)}\n"
        f"device      {describe(device, amp)}\n"
        f"schedule    {config.epochs} epochs, batch {min(config.batch_size, count)}, "
        f"{config.optimizer}, peak rate {lr:g}{of_encoder}, weight decay {decay:g}\n"
        f"run folder  {printable(str(run_dir))}",
        flush=True,
    )

    # ---- what the head sees: features computed once, or the encoder's output at each step
    viewing = {"image_size": config.image_size, "mean": config.mean, "std": config.std}
    reading = {**viewing, "device": device, "amp": amp, "taps": taps}
    augment = Augment(CROP_AND_FLIP, 0, seed=config.seed, **viewing)
    labels = torch.from_numpy(photos.labels[split.labelled]).to(device)
    # features are standardised, those of a full model only where there are several parts: one alone
    # finds its scale as it learns
    standardise = None
    if config.freeze:
        encoder.requires_grad_(False)
        inputs = extract_features(encoder, photos, split.labelled, **reading)
        standardise = Standardise(inputs, list(widths.values()))
        inputs = standardise(inputs)
    elif taps:
        some = split.labelled[:: math.ceil(count / 5000)]  # enough for a start
        features = extract_features(encoder, photos, some, **reading)
        standardise = RunningStandardise(features, list(widths.values())).to(device)

    # ---- where a stopped run goes on
    learning = nn.ModuleDict({"head": head})
    if not config.freeze:
        learning["encoder"] = encoder
        if standardise:
            learning["standardise"] = standardise
    started = time.perf_counter()
    first_step, history, results = 0, [], []
    if state:
        learning.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if state["scaler"] and scaled:  # empty where the run was not in fp16 until now
            scaler.load_state_dict(state["scaler"])
        first_step, history = state["step"], state["history"]
        results = [pair.to(device) for pair in state["results"]]
        started -= state["seconds"]
        print(f"going on at step {first_step:,}", flush=True)
    else:
        remove_states(run_dir)

    def check_weights(step: int) -> None:
        if not checkpoint.all_finite(learning):
            diverged("the weights are", step)

    def diverged(what: str, step: int) -> NoReturn:
        flag = "--frozen-lr" if config.freeze else "--lr"
        rate = lr_at(step - 1, total_steps, warmup_steps, lr)
        raise UserError(
            f"{what} not finite at step {step:,}, where the rate was {rate:g}; try a lower {flag}"
        )

    def save_state(step: int) -> None:
        check_weights(step)
        content = {
            "model": learning.state_dict(),
            "optimizer": optimizer.state_dict(),
            "scaler": scaler.state_dict(),
            "step": step,
            "config": run,
            "data_fingerprint": photos.fingerprint,
            "history": history,
            # of the steps since the last line of the metrics
            "results": torch.stack(results) if results else [],
            "seconds": time.perf_counter() - started,
        }
        checkpoint.save_state(run_dir, content)

    # ---- the loop
    partial = run_dir / "metrics.partial.jsonl"  # an earlier result stays until this one is whole
    batch_size = min(config.batch_size, count)
    steps_per_epoch = count // batch_size
    total_steps = config.epochs * steps_per_epoch
    warmup_steps = round(min(config.warmup_epochs, config.epochs / 2) * steps_per_epoch)
    encoder.train(not config.freeze)
    saved = time.perf_counter()
    bar = progress(config.epochs, "epoch", len(history))
    with Interrupt() as stop, MetricsFile(partial) as metrics, bar:
        for row in history:
            metrics.write(**row)
        for step in range(first_step, total_steps):
            set_lr(optimizer, lr_at(step, total_steps, warmup_steps, lr))
            positions = positions_at(step, count, batch_size, config.seed)
            at = to_device(positions, device)
            if config.freeze:
                seen = inputs[at]  # (N, width)
            else:
                rows = split.labelled[positions]
                images = gather(photos.images, rows, device)
                views = augment(images, photos.sizes[rows], rows, step)
                with autocast(device, amp):
                    seen = combine(encoder, views, taps)  # (N, width)
                if standardise:
                    seen = standardise(seen)
            scores = head(seen)  # (N, classes)
            loss = F.cross_entropy(scores, labels[at])
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()

            hits = (scores.detach().argmax(1) == labels[at]).float().mean()
            results.append(torch.stack([loss.detach(), hits]))
            done = step + 1
            if done % steps_per_epoch == 0:
                of_epoch = torch.stack(results).cpu()  # (steps, 2)
                if len(bad := (~of_epoch[:, 0].isfinite()).nonzero()):
                    diverged("the loss is", done - len(results) + int(bad[0]) + 1)
                train_loss, train_accuracy = of_epoch.mean(0).tolist()
                row = {"epoch": done // steps_per_epoch, "loss": train_loss}
                history.append({**row, "accuracy": train_accuracy})
                metrics.write(**history[-1])
                bar.update()
                about = f"loss {train_loss:.3f}, accuracy {100 * train_accuracy:.1f} %"
                bar.set_postfix_str(about, refresh=False)
                results = []
            stopping = stop.asked
            due = time.perf_counter() - saved >= config.save_every
            if stopping or due:
                save_state(done)
                saved = time.perf_counter()
            if stopping:
                how = "--resume in place of --overwrite" if config.overwrite else "--resume"
                raise Stopped(
                    f"saved at step {done:,} in {run_dir / LAST}; the same command with {how} "
                    "goes on",
                    stop.code,
                )
    check_weights(total_steps)

    # ---- the test, once, with the weights of the last epoch
    if standardise:
        head = standardise.fold(head)
    features = extract_features(encoder, photos, test_rows, what="test images", **reading)
    truth = torch.from_numpy(photos.labels[test_rows]).to(device)
    test_accuracy = accuracy(head, features, truth)
    content = {
        "encoder": checkpoint.encoder_weights(encoder),
        "head": checkpoint.head_weights(head),
        "classes": classes,
        **{key: getattr(config, key) for key in FROM_CHECKPOINT},
        "taps": taps,
        "config": dataclasses.asdict(config),
    }
    checkpoint.save(run_dir / "classifier.pt", checkpoint.CLASSIFIER, content)
    write_json(run_dir / "config.json", dataclasses.asdict(config))
    split.save(run_dir / "split.json")
    os.replace(partial, run_dir / "metrics.jsonl")
    write_json(  # last, and all that plots and tables read: an earlier result holds until here
        run_dir / "summary.json",
        {
            "init": init,
            "init_file": config.init,
            "freeze": config.freeze,
            "features": config.features,
            "seed": config.seed,
            "label_seed": split.label_seed,
            "data": config.data,
            "image_size": config.image_size,
            "labels": count,
            "classes": classes,
            "epochs": config.epochs,
            "train_loss": history[-1]["loss"],
            "train_accuracy": history[-1]["accuracy"],
            "test_accuracy": test_accuracy,
            "test_images": len(test_rows),
            "tested_on": tested_on,
            "seconds": round(time.perf_counter() - started, 1),
            "run": run,
            "curve": history,
        },
    )
    remove_states(run_dir)
    print(f"test accuracy {100 * test_accuracy:.2f} % on {len(test_rows):,} images ({tested_on})")


if __name__ == "__main__":
    sys.exit(main())
