"""Search for a way to fine-tune: each of a list of ways, judged by cross-validation on the labels.

    python benchmarks/finetuning.py byol.pt benchmarks/finetuning.toml

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
from common import ROOT, versions
from experiments import append, folds_of, has_rows, read_list
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

sys.path.insert(0, str(ROOT))
from byol import checkpoint
from byol.augment import Augment, View
from byol.config import PretrainConfig
from byol.device import autocast, keep_freed_memory, pick_amp, pick_device
from byol.errors import UserError, command
from byol.linear_eval import FOLDS, fit_linear
from byol.loader import gather, positions_at
from byol.optim import build_optimizer, parameter_groups, set_lr
from byol.probe import RunningStandardise, Standardise, accuracy, combine, extract_features
from byol.schedules import lr_at
from data import make_split, open_photos

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
    source = checkpoint.load(args.encoder, checkpoint.ENCODER)
    config = PretrainConfig(**source["config"] | {"image_size": args.image_size})
    config.data = args.data or config.data
    encoder = checkpoint.fingerprint(source["encoder"])[:12]  # a file may be written anew
    ways = read_list(Path(args.list), ("name",))
    check_ways(ways, Path(args.list))
    photos = open_photos(config.data, config.stored_side)
    table = Path(args.out)
    for run in ways:
        if args.only and run["name"] not in args.only:
            continue
        for draw in range(args.draws):
            keys = {"encoder": encoder, "run": run["name"], "draw": str(draw)}
            if has_rows(table, run["settings"], **keys):
                continue
            began = time.perf_counter()
            split = make_split(photos, config.labels, config.holdout, config.split_seed, draw)
            scores = judge(source, config, photos, split.labelled, run["settings"], draw)
            row = {"date": datetime.date.today().isoformat(), "commit": versions()["commit"],
                   **keys, "settings": json.dumps(run["settings"]), **scores,
                   "minutes": round((time.perf_counter() - began) / 60, 1)}  # fmt: skip
            append(table, [row])
            print(row, flush=True)


def check_ways(ways: list[dict], path: Path) -> None:
    """Raises `UserError` for a setting that `WAY` does not have."""
    for way in ways:
        if unknown := way["settings"].keys() - WAY.keys():
            raise UserError(
                f"{path}: {way['name']} has {', '.join(sorted(unknown))}; choose from "
                f"{', '.join(WAY)}"
            )


def judge(source, config, photos, rows: np.ndarray, settings: dict, seed: int) -> dict:
    """Accuracy (%) over the folds: of the last weights, of their average, and of a frozen probe."""
    labels = torch.from_numpy(photos.labels[rows])
    fold = folds_of(labels).numpy()
    right = np.zeros(3)
    for number in range(FOLDS):
        train, test = rows[fold != number], rows[fold == number]
        scores = fine_tune(source, config, photos, train, test, WAY | settings, seed)
        right += len(test) * np.array(scores)
    last, average, probe = (100 * right / len(rows)).round(2).tolist()
    return {"accuracy": last, "accuracy_ema": average, "probe": probe}


def fine_tune(source, config, photos, train, test, way: dict, seed: int) -> tuple:
    """Train all weights on `train`; accuracy on `test`, of its average, and before it began."""
    # ---- the encoder, and the head on standardised features of it, as in train_classifier.py
    device = pick_device(config.device)
    amp = pick_amp(config.amp, device)
    torch.manual_seed(seed)
    encoder = checkpoint.load_encoder(source, "the encoder")
    encoder.to(device, memory_format=torch.channels_last)
    taps = config.grids
    widths = list(encoder.widths(taps).values())
    viewing = {"image_size": config.image_size, "mean": config.mean, "std": config.std}
    reading = {**viewing, "device": device, "amp": amp, "taps": taps}
    labels = torch.from_numpy(photos.labels[train]).to(device)
    truth = torch.from_numpy(photos.labels[test]).to(device)
    features = extract_features(encoder, photos, train, **reading)
    still = Standardise(features, widths)
    probe, _ = fit_linear(still(features), labels, len(photos.classes))
    before = accuracy(still.fold(probe), extract_features(encoder, photos, test, **reading), truth)
    head = nn.Linear(sum(widths), len(photos.classes)).to(device)
    if way["probe_first"]:
        head.load_state_dict(probe.state_dict())
    standardise = RunningStandardise(features, widths).to(device)
    model = nn.ModuleDict({"encoder": encoder, "standardise": standardise, "head": head})
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(way["ema"]), use_buffers=True)

    # ---- the loop
    groups = parameter_groups(head)
    for group in parameter_groups(encoder):
        groups.append({**group, "lr_scale": way["backbone"]})
    optimizer = build_optimizer(way["optimizer"], groups, way["weight_decay"])
    view = View(crop_scale=(way["crop_from"], 1.0), jitter=way["jitter"])
    augment = Augment(view, 0, seed=seed, **viewing)
    batch = min(way["batch_size"], len(train))
    per_epoch = len(train) // batch
    total, warmup = way["epochs"] * per_epoch, round(way["warmup_epochs"] * per_epoch)
    model.train()
    encoder.train(way["batchnorm"] == "batch")
    for step in range(total):
        set_lr(optimizer, lr_at(step, total, warmup, way["lr"]))
        positions = positions_at(step, len(train), batch, seed)
        rows = train[positions]
        views = augment(gather(photos.images, rows, device), photos.sizes[rows], rows, step)
        with autocast(device, amp):
            seen = combine(encoder, views, taps)
        scores = head(standardise(seen))
        smoothing = way["label_smoothing"]
        loss = F.cross_entropy(scores, labels[positions], label_smoothing=smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        average.update_parameters(model)

    # ---- the test of the last weights and of the averaged ones
    results = []
    for tested in (model, average.module):
        features = extract_features(tested["encoder"], photos, test, **reading)
        folded = tested["standardise"].fold(tested["head"])
        results.append(accuracy(folded, features, truth))
    return *results, before


if __name__ == "__main__":
    sys.exit(main())
