"""How many directions does the target of BYOL use? Prints a row for each loss.

    python -m experiments.target_directions runs/byol

Takes the last state of a run, and two views of photos that it learned from. `of the variance`: how
many directions hold that part of the variance of the target's projections (unit vectors, before
any whitening). `views agree`: the correlation of both views along the first, the 8th, ... of these
directions. One that views agree on could teach the online network something. It does so only if it
holds variance, or if the target is whitened.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.common import build_model
from byol.command_line import command
from byol.config import PretrainConfig
from byol.evaluation.looked_at import spread
from byol.hardware.batches import Batch, gather
from byol.hardware.device import pick_device
from byol.run.checkpoint import load_state
from byol.views.augment import TwoViews
from data import make_split, open_photos

PHOTOS, BATCH = 2_048, 256
SHARES = (0.9, 0.99, 0.999)
PLACES = (1, 8, 16, 32, 64)


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run_dir", help="folder of a run of train_byol.py")
    args = parser.parse_args(argv)

    run_dir = Path(args.run_dir)
    state = load_state(run_dir)
    config = PretrainConfig(**json.loads((run_dir / "config.json").read_text(encoding="utf-8")))
    device = pick_device(config.device)
    model = build_model(config, device).train()
    model.load_state_dict(state["model"])

    photos = open_photos(**config.reading)
    split = make_split(photos, config.labels, config.holdout, config.split_seed)
    two_views = TwoViews(config.views, config.view_side, config.mean, config.std, config.seed)
    one, other = [], []
    rows = spread(split.learned, PHOTOS)
    for some in np.array_split(rows, max(1, len(rows) // BATCH)):
        batch = Batch(gather(photos.images, some, device), photos.sizes[some], some)
        view1, view2 = two_views(batch, state["step"])
        one.append(model.target_projections(view1))
        other.append(model.target_projections(view2))

    shares = " | ".join(f"{100 * share:g} %" for share in SHARES)
    print(f"| step {state['step']:,}, loss on | {shares} of the variance "
          f"| views agree, direction {', '.join(map(str, PLACES))} |")  # fmt: skip
    print("|---" * (2 + len(SHARES)) + "|")
    for number, name in enumerate(model.outputs):
        counts, agreement = directions(*(torch.cat([z[number] for z in v]) for v in (one, other)))
        told = ", ".join(f"{agreement[p - 1]:.2f}" for p in PLACES if p <= len(agreement))
        print(f"| {name} | {' | '.join(map(str, counts))} | {told} |")


def directions(one: Tensor, other: Tensor) -> tuple[list[int], list[float]]:
    """Tell how many principal directions hold `SHARES` of the variance, and how far views agree.

    one, other: projections (N, D) of two views. The agreement is the views' covariance along a
    direction as a part of the variance there: 1 if both are the same, 0 if they have nothing in
    common.
    """
    one, other = F.normalize(one.double()), F.normalize(other.double())
    mean = torch.cat([one, other]).mean(0)
    one, other = one - mean, other - mean
    variances, axes = torch.linalg.eigh((one.T @ one + other.T @ other) / (2 * len(one)))
    variances, axes = variances.flip(0).clamp_min(1e-15), axes.flip(1)
    parts = (variances / variances.sum()).cumsum(0)
    counts = [int((parts < share).sum()) + 1 for share in SHARES]
    agreement = ((one @ axes) * (other @ axes)).mean(0) / variances
    return counts, agreement.tolist()


if __name__ == "__main__":
    sys.exit(main())
