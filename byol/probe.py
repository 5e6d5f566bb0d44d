"""Features of an encoder, standardised for a linear head (paper section 4.1)."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from byol.augment import central_view
from byol.device import autocast
from byol.encoder import Encoder
from byol.errors import UserError
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
    taps: dict[str, int] | None = None,
    batch_size: int = 256,
    what: str = "features",
) -> Tensor:
    """Features (len(rows), width), float32 on the device, of the central view of each photo.

    They are the representation, followed by the outputs of `taps` (see `Encoder.outputs`).

    The encoder runs in evaluation mode, so that each feature depends on its own image alone and
    BatchNorm's statistics stay as they are. Its mode is put back afterwards. Raises `UserError`
    where a feature is not a finite number.
    """
    was_training = encoder.training
    encoder.eval()
    taps = taps or {}
    features = torch.empty(len(rows), sum(encoder.widths(taps).values()), device=device)
    often = 0.1 if sys.stderr.isatty() else 30
    with tqdm(
        total=len(rows), desc=what, unit="image", leave=False, delay=2, mininterval=often
    ) as bar:
        for at in range(0, len(rows), batch_size):
            part = rows[at : at + batch_size]
            images = gather(photos.images, part, device)
            views = central_view(images, photos.sizes[part], image_size, mean, std)
            with autocast(device, amp):
                features[at : at + len(part)] = combine(encoder, views, taps)
            bar.update(len(part))
    encoder.train(was_training)
    if not features.isfinite().all():
        hint = "" if amp is None else ", or --amp off"
        raise UserError(
            f"the encoder gives {what} that are not finite numbers; give other weights, or a lower "
            f"rate where they were trained{hint}"
        )
    return features


def combine(encoder: Encoder, images: Tensor, taps: dict[str, int]) -> Tensor:
    """The representation and the outputs of `taps`, side by side: (N, width) in float32."""
    return torch.cat([part.float() for part in encoder.outputs(images, taps).values()], dim=1)


class Standardise(nn.Module):
    """(x - mean) / deviation per feature, with the statistics of the training features.

    Random and learned features differ a hundredfold in scale; this gives a head the same start
    on both. Of several parts side by side, `widths` wide, each weighs as much as the first, however
    wide it is. `fold` takes it into a linear layer.
    """

    def __init__(self, features: Tensor, widths: Sequence[int]):
        super().__init__()
        deviation, mean = torch.std_mean(features, dim=0)
        parts = deviation.split(list(widths))
        # a feature that is always 0 stays near 0
        floored = [part.clamp_min(max(1e-3 * part.mean().item(), 1e-12)) for part in parts]
        self.register_buffer("mean", mean)
        self.register_buffer("scale", part_scale(widths).to(mean) / torch.cat(floored))

    def forward(self, features: Tensor) -> Tensor:
        return (features - self.mean) * self.scale

    def fold(self, head: nn.Linear) -> nn.Linear:
        """A linear layer on raw features that equals `head` on standardised ones."""
        return fold(head, self.mean, self.scale)


class RunningStandardise(nn.Module):
    """`Standardise` for features that move as their encoder learns.

    It normalises with the statistics of the batch in training and with their moving averages in
    evaluation. `features`, of the encoder as it is at the start, are what the averages start from.
    """

    def __init__(self, features: Tensor, widths: Sequence[int]):
        super().__init__()
        variance, mean = torch.var_mean(features, dim=0)
        self.norm = nn.BatchNorm1d(features.shape[1], affine=False)
        self.norm.running_mean.copy_(mean)
        self.norm.running_var.copy_(variance)
        self.register_buffer("part_scale", part_scale(widths))

    def forward(self, features: Tensor) -> Tensor:
        return self.norm(features) * self.part_scale

    def fold(self, head: nn.Linear) -> nn.Linear:
        """A linear layer on raw features that equals `head` on standardised ones."""
        scale = self.part_scale * (self.norm.running_var + self.norm.eps).rsqrt()
        return fold(head, self.norm.running_mean, scale)


def part_scale(widths: Sequence[int]) -> Tensor:
    """For each feature a factor with which its part has the total variance of the first part."""
    return torch.cat([torch.full((width,), (widths[0] / width) ** 0.5) for width in widths])


@torch.no_grad()
def fold(head: nn.Linear, mean: Tensor, scale: Tensor) -> nn.Linear:
    """The linear layer that equals `head` on (x - mean) * scale."""
    folded = nn.Linear(head.in_features, head.out_features, device=head.weight.device)
    folded.weight.copy_(head.weight * scale)
    folded.bias.copy_(head.bias - folded.weight @ mean)
    return folded


@torch.no_grad()
def accuracy(head: nn.Module, features: Tensor, labels: Tensor) -> float:
    """Share of the features (N, dim) that `head` gives their label (N,)."""
    return (head(features).argmax(1) == labels).double().mean().item()
