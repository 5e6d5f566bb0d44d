"""Networks for use without this project: what hubconf.py gives and export.py writes."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from byol.encoder import Encoder
from byol.evaluation.classifier import Classifier
from byol.evaluation.features import combine
from byol.run import checkpoint
from byol.views.image_ops import GREY

CPU = torch.device("cpu")


def load_encoder(path: str | Path) -> Encoder:
    """Read the encoder of byol.pt, last.pt or classifier.pt, on the CPU, in evaluation mode.

    It has `image_size`, `mean`, `std` and `channels` ("colour" or "grey"): what it wants to see.
    Raises `UserError` if the file is missing, damaged, or something else.
    """
    content = checkpoint.load_any(path)
    encoder = checkpoint.load_encoder(content, path).eval()
    for key in ("image_size", "mean", "std"):
        setattr(encoder, key, content[key])
    encoder.channels = content.get("channels", "colour")
    return encoder


class Portable(nn.Module):
    """Takes images in 0..1, prepares them itself, and gives features or probabilities.

    `forward(images)`: float32 (N, 3, S, S), RGB in 0..1 -> of an encoder features (N, dim), of a
    classifier probabilities (N, classes). S is `image_size`.
    """

    def __init__(self, path: str | Path):
        """Read byol.pt, last.pt or classifier.pt. Raises `UserError` as `load_encoder` does."""
        super().__init__()
        self.classes, self.inner_blocks, self.head = [], {}, None
        self.temperature: float | None = None
        if checkpoint.kind_of(path) == checkpoint.CLASSIFIER:
            classifier = Classifier.load(path, CPU)
            self.classes, self.inner_blocks = classifier.classes, classifier.inner_blocks
            self.head, self.temperature = classifier.head, classifier.temperature
        self.encoder = load_encoder(path)
        self.image_size = self.encoder.image_size
        numbers = {"mean": self.encoder.mean, "std": self.encoder.std, "grey": GREY}
        for key, of_channels in numbers.items():
            self.register_buffer(key, torch.tensor(of_channels).view(1, 3, 1, 1))
        self.output = "probabilities" if self.classes else "features"
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        if self.encoder.channels == "grey":
            images = (images * self.grey).sum(1, keepdim=True).expand(-1, 3, -1, -1)
        views = (images - self.mean) / self.std
        features = combine(self.encoder, views, self.inner_blocks)
        if self.head is None:
            return features
        return torch.softmax(self.head(features) / (self.temperature or 1.0), dim=1)

    def about(self) -> dict[str, str]:
        """Say what goes in and what comes out, for the metadata of a file: all of it texts."""
        side = self.image_size
        about = {
            "input": f"images: float32 (N, 3, {side}, {side}), RGB, 0..1, not normalised",
            "resize": f"upright photo, largest square in the middle, bicubic with antialiasing to "
            f"{side} x {side}",
            "normalisation": "inside the model: (images - mean) / std",
            "image_size": str(side),
            "mean": json.dumps(list(self.encoder.mean)),
            "std": json.dumps(list(self.encoder.std)),
            "output": self.output,
        }
        if self.encoder.channels == "grey":
            about["grey"] = "inside the model"
        if self.classes:
            about["classes"] = json.dumps(self.classes)
        if self.temperature is not None:
            about["temperature"] = str(self.temperature)
        return about
