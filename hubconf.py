"""Entry points of torch.hub. `weights` is a file that this project wrote.

    encoder = torch.hub.load("byol", "byol", weights="byol.pt", source="local")
    view = torch.hub.load("byol", "transform", weights="byol.pt", source="local")
    features = encoder(view(photo)[None])        # (1, 512)

The first argument is the folder of this file.
"""

import torch
from torchvision import transforms

from byol.encoder import Encoder
from byol.evaluation.classifier import Classifier
from byol.evaluation.portable import load_encoder

dependencies = ["torch", "torchvision", "numpy", "tqdm"]


def byol(weights: str = "byol.pt") -> Encoder:
    """Load an encoder: normalised images (N, 3, H, W) -> features (N, 512), or (N, 2048).

    weights: byol.pt, last.pt or classifier.pt; of a classifier it is the encoder alone. It is on
    the CPU, in evaluation mode, and has `image_size`, `mean` and `std`. Raises `UserError` if the
    file is missing, damaged, or something else.
    """
    return load_encoder(weights)


def classifier(weights: str = "classifier.pt") -> Classifier:
    """Load a classifier: normalised images (N, 3, S, S) -> scores (N, classes).

    It is on the CPU, in evaluation mode. `classes` has the names; the softmax of the scores are
    probabilities. Raises `UserError` as `byol` does.
    """
    return Classifier.load(weights, torch.device("cpu"))


def transform(weights: str = "byol.pt") -> transforms.Compose:
    """Make the transform from an upright RGB photo (PIL) to what the network sees: (3, S, S)."""
    seen = load_encoder(weights)
    grey = [transforms.Grayscale(3)] if seen.channels == "grey" else []
    return transforms.Compose(
        [
            *grey,
            transforms.Resize(seen.image_size, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(seen.image_size),
            transforms.ToTensor(),
            transforms.Normalize(seen.mean, seen.std),
        ]
    )
