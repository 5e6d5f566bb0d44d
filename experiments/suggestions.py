"""Ask whether it helps to choose which photos to label first, by features without labels.

    python explore.py embed cats_vs_dogs.zip --init byol.pt --out features.npz
    python -m experiments.suggestions features.npz --data cats_vs_dogs.zip

Each way chooses 10, 20, 50 and 100 photos without their labels; then these labels are told, and a
linear head on the same features is tested on all other photos. The ways: random draws; the farthest
photo from all before; of each group of k-means the photo nearest its centre. Draws differ in the
seed. A choice that has fewer than two photos of a class cannot be judged:
they are left out, and counted behind the figure. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import zipfile

import numpy as np
import torch
from torch import Tensor

from byol.command_line import command
from byol.errors import UserError
from byol.evaluation.features import Standardise, accuracy
from byol.evaluation.linear_and_knn import fit_linear
from byol.evaluation.similarity import farthest_first, most_central
from data import open_photos


def draw_at_random(features: Tensor, count: int, seed: int) -> Tensor:
    return torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))[:count]


def draw_farthest(features: Tensor, count: int, seed: int) -> Tensor:
    return farthest_first(features, count, int(draw_at_random(features, 1, seed)))


def draw_central(features: Tensor, count: int, seed: int) -> Tensor:
    return most_central(features, count, seed)[0]


WAYS = {
    "random": draw_at_random,
    "farthest first": draw_farthest,
    "k-means": draw_central,
}


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("features", help="a file that `explore.py embed` wrote")
    parser.add_argument("--data", required=True, help="the same photos, with classes")
    parser.add_argument("--labels", type=int, nargs="+", default=[10, 20, 50, 100])
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--only", nargs="+", choices=WAYS, default=list(WAYS))
    args = parser.parse_args(argv)
    features, labels = read(args.features, args.data)
    print(f"| labels | {' | '.join(args.only)} |")
    print("|" + "---|" * (1 + len(args.only)), flush=True)
    for count in args.labels:
        cells = [
            describe([
                judge(features, labels, WAYS[way](features, count, seed))
                for seed in range(args.draws)
            ])
            for way in args.only
        ]  # fmt: skip
        print(f"| {count} | {' | '.join(cells)} |", flush=True)


def read(path: str, data: str) -> tuple[Tensor, Tensor]:
    """Read features (N, D), and the class of each photo (N,) by its name."""
    try:
        with np.load(path, allow_pickle=False) as file:
            names, features = file["names"].tolist(), torch.from_numpy(file["features"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is no file of features: {error}") from None
    photos = open_photos(data, 8)
    classes = dict(zip(photos.names, photos.labels.tolist(), strict=True))
    labels = torch.tensor([classes.get(name, -1) for name in names])
    if (labels < 0).any():
        raise UserError(f"{data} has no class for {int((labels < 0).sum()):,} photos of {path}")
    return features, labels


def judge(features: Tensor, labels: Tensor, chosen: Tensor) -> float | None:
    """Test a linear head that learns from the chosen rows on all others; None if it cannot."""
    classes = int(labels.max()) + 1
    standardise = Standardise(features[chosen], [features.shape[1]])
    try:
        head, _ = fit_linear(standardise(features[chosen]), labels[chosen], classes)
    except UserError:
        return None
    others = torch.ones(len(labels), dtype=torch.bool)
    others[chosen] = False
    return accuracy(standardise.fold(head), features[others], labels[others])


def describe(values: list[float | None]) -> str:
    """Write mean ± deviation in per cent, and how many draws could not be judged."""
    known = [100 * value for value in values if value is not None]
    lacking = len(values) - len(known)
    if len(known) < 2:
        return "cannot be judged"
    text = f"{statistics.mean(known):.1f} ± {statistics.stdev(known):.1f}"
    return text + (f" ({lacking} of {len(values)} lack a class)" if lacking else "")


if __name__ == "__main__":
    sys.exit(main())
