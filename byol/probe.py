"""Features of a frozen encoder, and a linear head on them (paper section 4.1)."""

from __future__ import annotations

import sys

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from byol.augment import central_view
from byol.device import autocast
from byol.encoder import Encoder
from byol.loader import gather


@torch.no_grad()
def extract_features(
    encoder: Encoder,
    photos,
    rows: np.ndarray,
    *,
    image_size: int,
    mean: list[float],
    std: list[float],
    device: torch.device,
    amp: torch.dtype | None,
    batch_size: int = 256,
    what: str = "features",
) -> Tensor:
    """Representations (len(rows), dim), float32 on the device, of the central view of each photo.

    The encoder runs in evaluation mode, so that each feature depends on its own image alone and
    BatchNorm's statistics stay as they are. Its mode is put back afterwards.
    """
    was_training = encoder.training
    encoder.eval()
    features = torch.empty(len(rows), encoder.dim, device=device)
    often = 0.1 if sys.stderr.isatty() else 30
    with tqdm(
        total=len(rows), desc=what, unit="image", leave=False, delay=2, mininterval=often
    ) as bar:
        for at in range(0, len(rows), batch_size):
            part = rows[at : at + batch_size]
            images = gather(photos.images, part, device)
            views = central_view(images, photos.sizes[part], image_size, mean, std)
            with autocast(device, amp):
                features[at : at + len(part)] = encoder(views).float()
            bar.update(len(part))
    encoder.train(was_training)
    return features


class Standardise(nn.Module):
    """(x - mean) / deviation per feature, with the statistics of the training features.

    Random and learned features differ a hundredfold in scale; this gives a head the same start
    on both. `fold` takes it into a linear layer.
    """

    def __init__(self, features: Tensor):
        super().__init__()
        deviation, mean = torch.std_mean(features, dim=0)
        floor = 1e-3 * deviation.mean()  # a feature that is always 0 stays near 0
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation.clamp_min(max(floor.item(), 1e-12)))

    def forward(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.deviation

    @torch.no_grad()
    def fold(self, head: nn.Linear) -> nn.Linear:
        """A linear layer on raw features that equals `head` on standardised ones."""
        folded = nn.Linear(head.in_features, head.out_features, device=head.weight.device)
        folded.weight.copy_(head.weight / self.deviation)
        folded.bias.copy_(head.bias - folded.weight @ self.mean)
        return folded


@torch.no_grad()
def accuracy(head: nn.Module, features: Tensor, labels: Tensor) -> float:
    """Share of the features (N, dim) that `head` gives their label (N,)."""
    return (head(features).argmax(1) == labels).double().mean().item()
