"""Search for a way to fine-tune: each of a list of ways, judged by cross-validation on the labels.

    python -m experiments.finetuning byol.pt experiments/finetuning.toml

The list is TOML: `[all]` holds what every way shares, `[[run]]` has a name and what differs from
`WAY` below. For each draw of 250 labels, five times all weights are trained on four fifths and
tested on the rest; no hidden label is read. Each encoder, way and draw adds a row to
results/finetuning.csv, and what has its row is skipped, so the same command can be stopped and
given again. An encoder is known by its weights, not by the name of its file.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from benchmarks.common import ROOT, versions
from byol.command_line import command
from byol.config import PretrainConfig
from byol.errors import UserError
from byol.evaluation.classifier import Classifier
from byol.evaluation.features import Standardise, accuracy
from byol.evaluation.linear_and_knn import fit_linear
from byol.hardware.batches import gather
from byol.hardware.device import keep_freed_memory, pick_amp, pick_device
from byol.hardware.step import prepare
from byol.optim import build_optimizer, set_lr
from byol.run import checkpoint
from byol.schedules import Schedule
from byol.views.augment import Augment
from byol.views.recipes import View, in_grey
from data import make_split, open_photos
from experiments.pretraining import FOLDS, append, folds_of, has_rows, read_list

WAY = {
    "epochs": 30,
    "batch_size": 50,
    "optimizer": "adamw",
    "lr": 1e-3,  # at the peak, of the head
    "backbone": 1.0,  # the encoder's rate, as a multiple of the head's
    "weight_decay": 1e-2,
    "warmup_epochs": 5.0,
    "probe_first": False,  # the head starts as logistic regression on the frozen features
    "batchnorm": "batch",  # "fixed": the encoder's statistics stay as pretraining left them
    "label_smoothing": 0.0,
    "crop_from": 0.25,  # least area of the crops
    "jitter": 0.0,  # probability of the colour jitter of BYOL's views
    "ema": 0.95,  # of the averaged weights, which are tested as well
}


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("encoder", help="a file that train_byol.py wrote")
    parser.add_argument("list", help="TOML file of ways")
    parser.add_argument("--data", help="as for train_byol.py (default: what the encoder saw)")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--draws", type=int, default=3, help="of the labels")
    parser.add_argument("--out", default=str(ROOT / "results" / "finetuning.csv"))
    parser.add_argument("--only", nargs="+", help="names of the ways to try")
    args = parser.parse_args(argv)

    keep_freed_memory()
    pretrained = checkpoint.load(args.encoder, checkpoint.ENCODER)
    config = PretrainConfig(**pretrained["config"] | {"image_size": args.image_size})
    config.data = args.data or config.data
    weights = checkpoint.fingerprint_of(pretrained["encoder"])[:12]  # a file may be written anew
    ways = read_list(Path(args.list), ("name",))
    check_ways(ways, Path(args.list))
    photos = open_photos(**config.reading)
    table = Path(args.out)
    for way in ways:
        if args.only and way["name"] not in args.only:
            continue
        for draw in range(args.draws):
            keys = {"encoder": weights, "run": way["name"], "draw": str(draw)}
            if has_rows(table, way["settings"], **keys):
                continue
            began = time.perf_counter()
            split = make_split(photos, config.labels, config.holdout, config.split_seed, draw)
            scores = judge(pretrained, config, photos, split.labelled, way["settings"], draw)
            row = {
                "date": datetime.date.today().isoformat(),
                "commit": versions()["commit"],
                **keys,
                "settings": json.dumps(way["settings"]),
                **scores,
                "minutes": round((time.perf_counter() - began) / 60, 1),
            }
            append(table, [row])
            print(row, flush=True)


def check_ways(ways: list[dict], path: Path) -> None:
    """Raise `UserError` for a setting that `WAY` does not have."""
    for way in ways:
        if unknown := way["settings"].keys() - WAY.keys():
            raise UserError(
                f"{path}: {way['name']} has {', '.join(sorted(unknown))}; choose from "
                f"{', '.join(WAY)}"
            )


def judge(
    pretrained: dict, config: PretrainConfig, photos, rows: np.ndarray, settings: dict, seed: int
) -> dict:
    """Judge a way by cross-validation on `rows`: accuracy (%) of what `fine_tune` tests."""
    fold = folds_of(torch.from_numpy(photos.labels[rows])).numpy()
    right = np.zeros(3)
    for left_out in range(FOLDS):
        train, test = rows[fold != left_out], rows[fold == left_out]
        scores = fine_tune(pretrained, config, photos, train, test, WAY | settings, seed)
        right += len(test) * np.array(scores)
    last, average, probe = (100 * right / len(rows)).round(2).tolist()
    return {"accuracy": last, "accuracy_ema": average, "probe": probe}


def fine_tune(
    pretrained: dict,
    config: PretrainConfig,
    photos,
    train: np.ndarray,
    test: np.ndarray,
    way: dict,
    seed: int,
) -> tuple[float, float, float]:
    """Train all weights on the rows `train`, and test on the rows `test`: three accuracies.

    They are of the last weights, of the weights' moving average, and of logistic regression on the
    frozen encoder.
    """
    # ---- the encoder, and a head on its standardised features, as in train_classifier.py
    device = pick_device(config.device)
    amp = pick_amp(config.amp, device)
    torch.manual_seed(seed)
    encoder = checkpoint.load_encoder(pretrained, "the encoder")
    settings = {key: getattr(config, key) for key in checkpoint.FROM_PRETRAINED}
    model = Classifier(encoder, config.block_grids, photos.classes, settings)
    prepare(model, device)
    extract = model.extractor(device, amp)
    labels, truth = (torch.from_numpy(photos.labels[rows]).to(device) for rows in (train, test))
    features = extract(encoder, photos, train)
    standardise = Standardise(features, list(model.widths.values()))
    probe, _ = fit_linear(standardise(features), labels, len(photos.classes))
    of_probe = accuracy(standardise.fold(probe), extract(encoder, photos, test), truth)
    if way["probe_first"]:
        model.head.load_state_dict(probe.state_dict())
    model.standardise_while_training(features)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(way["ema"]), use_buffers=True)

    # ---- the loop
    optimizer = build_optimizer(
        way["optimizer"], model.groups(way["backbone"]), way["weight_decay"]
    )
    view = View(crop_scale=(way["crop_from"], 1.0), jitter=way["jitter"])
    view = in_grey(view) if config.channels == "grey" else view
    augment = Augment(view, 0, config.image_size, config.mean, config.std, seed)
    batch_size = min(way["batch_size"], len(train))
    durations = way["epochs"], way["warmup_epochs"]
    schedule = Schedule(len(train), batch_size, *durations, way["lr"], seed)
    model.train()
    encoder.train(way["batchnorm"] == "batch")
    for step in range(schedule.total_steps):
        set_lr(optimizer, schedule.lr(step))
        positions = schedule.positions(step)
        rows = train[positions]
        views = augment(gather(photos.images, rows, device), photos.sizes[rows], rows, step)
        scores = model(views, amp)
        smoothing = way["label_smoothing"]
        loss = F.cross_entropy(scores, labels[positions], label_smoothing=smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        average.update_parameters(model)

    # ---- the test of the last weights and of their average
    of_last, of_average = (
        accuracy(tested.folded_head(), extract(tested.encoder, photos, test), truth)
        for tested in (model, average.module)
    )
    return of_last, of_average, of_probe


if __name__ == "__main__":
    sys.exit(main())
