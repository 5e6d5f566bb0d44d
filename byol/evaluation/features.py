"""Features of an encoder, standardised for a linear head (section 4.1)."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from byol.encoder import Encoder
from byol.errors import UserError
from byol.hardware import distributed
from byol.hardware.batches import gather
from byol.hardware.device import autocast
from byol.hardware.distributed import Helpers, is_first
from byol.progress import say, silent
from byol.views.augment import central_view

BATCH = 256  # images at a time


class FeatureExtractor:
    """Computes the features of the central view of photos, of any encoder.

    They are the representation, followed by the outputs of `inner_blocks` (`Encoder.outputs`).
    mirrored: turn left and right round before.
    """

    def __init__(
        self,
        *,
        image_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
        amp: torch.dtype | None,
        inner_blocks: dict[str, int] | None = None,
        channels: str = "colour",
        mirrored: bool = False,
    ):
        self.image_size, self.mean, self.std = image_size, mean, std
        self.device, self.amp, self.inner_blocks = device, amp, inner_blocks or {}
        self.channels, self.mirrored = channels, mirrored

    @torch.no_grad()
    def __call__(
        self, encoder: Encoder, photos, rows: np.ndarray, what: str = "features"
    ) -> Tensor:
        """Compute features (len(rows), width), float32 on the device, of `rows` of `photos`.

        The encoder, which is on the device, runs in evaluation mode: each feature depends on its
        own image alone, and BatchNorm's statistics stay as they are. Its mode is put back
        afterwards. Raises `UserError` if a feature is not a finite number; `what` names them.

        If this process has helpers (`share_features`), each computes its share.
        """
        if Helpers.current and len(rows) > BATCH:
            features = self.of_shares(encoder, photos, shares_of(rows), what)
        else:
            features = self.of_rows(encoder, photos, rows, what)
        self.check_finite(features, what)
        return features

    def of_shares(self, encoder: Encoder, photos, shares: list[np.ndarray], what: str) -> Tensor:
        """Compute features (N, width) of the rows of all shares, with the helpers of this process.

        shares: rows for each process, N in all.
        """
        helpers = Helpers.current
        helpers.send((self, copy.deepcopy(encoder).cpu(), shares, what))
        width = sum(encoder.widths(self.inner_blocks).values())
        features = torch.empty(sum(map(len, shares)), width)
        first, *others = features.split([len(share) for share in shares])
        first.copy_(self.of_rows(encoder, photos, shares[0], what))
        for number, part in enumerate(others, 1):
            if len(part):
                helpers.take(part, number)
        return features.to(self.device)

    @torch.no_grad()
    def of_rows(self, encoder: Encoder, photos, rows: np.ndarray, what: str) -> Tensor:
        """Compute features (len(rows), width) as a call does, alone and unchecked."""
        was_training = encoder.training
        encoder.eval()
        width = sum(encoder.widths(self.inner_blocks).values())
        features = torch.empty(len(rows), width, device=self.device)
        often = 0.1 if sys.stderr.isatty() else 30
        with tqdm(
            total=len(rows),
            desc=what,
            unit="image",
            leave=False,
            delay=2,
            mininterval=often,
            disable=silent(),
        ) as bar:
            for at in range(0, len(rows), BATCH):
                some = rows[at : at + BATCH]
                images = gather(photos.images, some, self.device)
                features[at : at + len(some)] = self.of_batch(encoder, images, photos.sizes[some])
                bar.update(len(some))
        encoder.train(was_training)
        return features

    @torch.no_grad()
    def of_batch(self, encoder: Encoder, images: Tensor, sizes: np.ndarray) -> Tensor:
        """Compute features (N, width), float32, of stored photos, uint8 (N, 3, S, S).

        The encoder is in evaluation mode. sizes: (N, 2), the photos' own heights and widths.
        """
        views = central_view(images, sizes, self.image_size, self.mean, self.std, self.channels)
        views = views.flip(3) if self.mirrored else views
        with autocast(self.device, self.amp):
            return combine(encoder, views, self.inner_blocks)

    def check_finite(self, features: Tensor, what: str) -> None:
        """Raise `UserError` if a feature is not a finite number; `what` names them."""
        if not features.isfinite().all():
            hint = "" if self.amp is None else ", or --amp off"
            raise UserError(
                f"the encoder gives {what} that are not finite numbers; give other weights, or a "
                f"lower rate where they were trained{hint}"
            )


def share_features(photos, device: torch.device, amp: torch.dtype | None) -> bool:
    """Let the processes of torchrun compute the features that the first one asks for, in shares.

    True in the first process, which goes on with its script. In the others False, when it has
    ended; their work is done then. Without torchrun there is the first process alone. Raises
    `UserError` if the photos of another machine differ.
    """
    facts = {"images": photos.fingerprint, "size of the images": photos.shape}
    distributed.join(device, {**facts, "precision": str(amp)})
    Helpers.begin()
    if is_first():
        if Helpers.current:
            say(f"features    computed in shares by {distributed.count()} processes")
        return True
    for extract, encoder, shares, what in Helpers.current.jobs():
        if len(own := shares[distributed.rank()]):
            extract.device = device
            features = extract.of_rows(encoder.to(device), photos, own, what)
            Helpers.current.give(features.cpu())
    return False


def shares_of(rows: np.ndarray) -> list[np.ndarray]:
    """Part `rows` among the processes, in whole batches: a batch is that of one process."""
    batches, count = math.ceil(len(rows) / BATCH), distributed.count()
    ends = [BATCH * math.ceil(batches * number / count) for number in range(1, count)]
    return np.split(rows, ends)


def combine(encoder: Encoder, images: Tensor, inner_blocks: dict[str, int]) -> Tensor:
    """Put the representation and the outputs of inner blocks side by side: (N, width), float32."""
    outputs = encoder.outputs(images, inner_blocks).values()
    return torch.cat([output.float() for output in outputs], dim=1)


class Standardise(nn.Module):
    """Scales each feature by the statistics of the training features: (x - mean) / deviation.

    Random and learned features differ a hundredfold in scale; this gives a head the same start on
    both. Features are blocks side by side, `widths` wide; each block weighs as much as the first,
    however wide it is. `fold` takes the scaling into a linear layer.
    """

    def __init__(self, features: Tensor, widths: Sequence[int]):
        super().__init__()
        deviation, mean = torch.std_mean(features, dim=0)
        blocks = deviation.split(list(widths))
        # a feature that is always 0 stays near 0
        floored = [block.clamp_min(max(1e-3 * block.mean().item(), 1e-12)) for block in blocks]
        self.register_buffer("mean", mean)
        self.register_buffer("scale", block_scale(widths).to(mean) / torch.cat(floored))

    def forward(self, features: Tensor) -> Tensor:
        return (features - self.mean) * self.scale

    def fold(self, head: nn.Linear) -> nn.Linear:
        """Build the linear layer on raw features that equals `head` on standardised ones."""
        return fold(head, self.mean, self.scale)


class RunningStandardise(nn.Module):
    """`Standardise` for features that move as their encoder learns.

    It normalises with the statistics of the batch in training and with their moving averages in
    evaluation. The averages start from `features`, those of the encoder at the start.
    """

    def __init__(self, features: Tensor, widths: Sequence[int]):
        super().__init__()
        variance, mean = torch.var_mean(features, dim=0)
        self.norm = nn.BatchNorm1d(features.shape[1], affine=False)
        self.norm.running_mean.copy_(mean)
        self.norm.running_var.copy_(variance)
        self.register_buffer("part_scale", block_scale(widths))

    def forward(self, features: Tensor) -> Tensor:
        return self.norm(features) * self.part_scale

    def fold(self, head: nn.Linear) -> nn.Linear:
        """Build the linear layer on raw features that equals `head` on standardised ones."""
        scale = self.part_scale * (self.norm.running_var + self.norm.eps).rsqrt()
        return fold(head, self.norm.running_mean, scale)


def block_scale(widths: Sequence[int]) -> Tensor:
    """Give each feature the factor with which its block has the total variance of the first."""
    return torch.cat([torch.full((width,), (widths[0] / width) ** 0.5) for width in widths])


@torch.no_grad()
def fold(head: nn.Linear, mean: Tensor, scale: Tensor) -> nn.Linear:
    """Build the linear layer that equals `head` on (x - mean) * scale."""
    folded = nn.Linear(head.in_features, head.out_features, device=head.weight.device)
    folded.weight.copy_(head.weight * scale)
    folded.bias.copy_(head.bias - folded.weight @ mean)
    return folded


@torch.no_grad()
def confusion_matrix(head: nn.Linear, features: Tensor, labels: Tensor) -> list[list[int]]:
    """Count images (N, dim) by label (rows) and by what `head` takes them for (columns)."""
    return count_pairs(labels, head(features).argmax(1), head.out_features)


def count_pairs(labels: Tensor, found: Tensor, classes: int) -> list[list[int]]:
    """Count images by label (N,) (rows) and by the class that they are taken for (N,) (columns)."""
    cells = torch.bincount((labels * classes + found).cpu(), minlength=classes**2)
    return cells.view(classes, classes).tolist()


@torch.no_grad()
def accuracy(head: nn.Module, features: Tensor, labels: Tensor) -> float:
    """Compute the share of the features (N, dim) that `head` gives their label (N,)."""
    return (head(features).argmax(1) == labels).cpu().double().mean().item()
