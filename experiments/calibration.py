"""Are a classifier's probabilities right, and does it know what it does not know? Prints a table.

    python -m experiments.calibration classifier.pt --data cats_vs_dogs.zip --labels 250 \\
        --others cartoons cifar10.tar.xz --leave-out cat dog

Accuracy and expected calibration error (15 bins) on photos whose labels the classifier did not see,
with its temperature and without. Then, for each other source: how often a photo of it is more
`unlike` than one of --data (the area under the ROC curve; 50 % is chance).
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import torch
from torch import Tensor

from byol.command_line import command
from byol.evaluation.classifier import Classifier
from byol.evaluation.familiar import looks_of_rows
from byol.evaluation.looked_at import spread
from byol.evaluation.temperature import calibration_error
from byol.hardware.device import pick_amp, pick_device
from data import make_split, open_photos

MOST = 5_000  # photos of each source


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a classifier, trained on --labels photos of --data")
    parser.add_argument("--data", required=True)
    parser.add_argument("--labels", type=int, required=True)
    parser.add_argument("--holdout", type=int, default=0)
    parser.add_argument("--others", nargs="*", default=[], help="photos of other kinds")
    parser.add_argument("--leave-out", nargs="*", default=[], help="classes of the others")
    args = parser.parse_args(argv)

    device = pick_device("auto")
    classifier = Classifier.load(args.model, device)
    extract = classifier.extractor(device, pick_amp("auto", device))

    def features_of(photos, rows: np.ndarray) -> Tensor:
        return extract(classifier.encoder, photos, spread(rows, MOST), photos.source)

    def unlike(photos, rows: np.ndarray) -> Tensor:
        looks = looks_of_rows(extract, classifier.encoder, photos, spread(rows, MOST))
        return classifier.familiar.unlike(looks)

    photos = open_photos(args.data, classifier.stored_shape[0])
    split = make_split(photos, args.labels, args.holdout)
    rows = split.holdout if args.holdout else split.hidden
    features = features_of(photos, rows)
    truth = torch.from_numpy(photos.labels[spread(rows, MOST)]).to(device)
    scores = classifier.folded_head()(features).detach()
    right = (scores.argmax(1) == truth).double().mean().item()
    print(f"| {len(truth):,} photos of {args.data} | |\n|---|---|")
    print(f"| accuracy, % | {100 * right:.2f} |")
    for name, value in (("1", 1.0), (f"{classifier.temperature:.2f}", classifier.temperature)):
        error = calibration_error(scores / value, truth)
        print(f"| calibration error at temperature {name}, points | {100 * error:.2f} |")
    inside = unlike(photos, rows)
    print(f"| `unlike` above 0.95, % | {100 * (inside > 0.95).double().mean():.1f} |")
    for source in args.others:
        others = open_photos(source, classifier.stored_shape[0])
        out = [i for i, name in enumerate(others.classes) if name in args.leave_out]
        rows = np.flatnonzero(~np.isin(others.labels, out))
        outside = unlike(others, rows)
        share = 100 * auc(inside, outside)
        print(f"| {source}, more unlike than a photo of --data, % | {share:.1f} |")
        print(f"| the same, above 0.95, % | {100 * (outside > 0.95).double().mean():.1f} |")


def auc(inside: Tensor, outside: Tensor) -> float:
    """Compute how often one of `outside` is above one of `inside`; a tie counts half."""
    above = (outside[:, None] > inside).double().mean()
    return float(above + (outside[:, None] == inside).double().mean() / 2)


if __name__ == "__main__":
    sys.exit(main())
