"""Features of an encoder, and what judges them: a linear head (paper section 4.1), neighbours."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
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
    BatchNorm's statistics stay as they are. Its mode is put back afterwards.
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


STRENGTHS = [10 ** (exponent / 2) for exponent in range(8, -1, -1)]  # 10^4 to 1, strongest first
FOLDS = 5
MOST_IMAGES_TO_CHOOSE = 10_000


def fit_linear(
    features: Tensor, labels: Tensor, classes: int, seed: int = 0
) -> tuple[nn.Linear, float]:
    """Logistic regression on features (N, width) with labels (N,): (the head, its L2 strength).

    Minimises the sum of the cross-entropies + strength / 2 * |W|^2 by L-BFGS from zero weights, so
    the same input gives the same head. The strength is the one of `STRENGTHS` with the least
    cross-entropy in `FOLDS`-fold cross-validation on these images alone; of more than
    `MOST_IMAGES_TO_CHOOSE` on as many of them, which `seed` draws. (In this form the best strength
    hardly depends on the number of images.) Raises `UserError` for a class with one image.
    """
    counts = torch.bincount(labels, minlength=classes)
    folds = min(FOLDS, int(counts.min()))
    if folds < 2:
        raise UserError("--labels: a linear evaluation needs two images of each class; raise it")
    fold = _folds(labels, folds, seed)
    chosen = fold >= 0
    losses = torch.zeros(len(STRENGTHS), device=features.device)
    for number in range(folds):
        train, test = chosen & (fold != number), fold == number
        head = _zero_head(features.shape[1], classes, features.device)
        x, y = features[train], labels[train]
        held, truth = features[test], labels[test]
        for index, strength in enumerate(STRENGTHS):  # each starts from the one before
            _minimise(head, x, y, strength)
            losses[index] += F.cross_entropy(head(held), truth, reduction="sum").detach()
    strength = STRENGTHS[int(losses.argmin())]
    head = _zero_head(features.shape[1], classes, features.device)
    _minimise(head, features, labels, strength)
    return head, strength


def _zero_head(width: int, classes: int, device: torch.device) -> nn.Linear:
    head = nn.Linear(width, classes, device=device)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def _minimise(head: nn.Linear, x: Tensor, y: Tensor, strength: float, steps: int = 300) -> None:
    """Descend to where no gradient exceeds a millionth of an image's share, or for `steps`."""
    optimizer = torch.optim.LBFGS(
        head.parameters(), max_iter=steps, tolerance_grad=1e-6, tolerance_change=1e-9,
        history_size=20, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def objective() -> Tensor:
        optimizer.zero_grad()
        penalty = strength / 2 * head.weight.square().sum()
        loss = F.cross_entropy(head(x), y) + penalty / len(x)
        loss.backward()
        return loss

    optimizer.step(objective)


def _folds(labels: Tensor, folds: int, seed: int) -> Tensor:
    """(N,) the fold of each image, each class spread evenly; -1 for those that are not drawn."""
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(labels))
    by_class = order[np.argsort(labels.cpu().numpy()[order], kind="stable")]  # shuffled in a class
    drawn = by_class
    if len(by_class) > MOST_IMAGES_TO_CHOOSE:
        drawn = by_class[np.linspace(0, len(by_class) - 1, MOST_IMAGES_TO_CHOOSE).astype(np.int64)]
    fold = np.full(len(labels), -1)
    fold[drawn] = np.arange(len(drawn)) % folds
    return torch.from_numpy(fold).to(labels.device)


@torch.no_grad()
def knn_accuracy(
    bank: Tensor,
    bank_labels: Tensor,
    features: Tensor,
    labels: Tensor,
    classes: int,
    k: int = 200,
    temperature: float = 0.1,
) -> float:
    """Share of `features` (N, width) that their nearest neighbours in `bank` (M, width) get right.

    The k most similar by cosine vote with exp(cosine / temperature) (arXiv 1805.01978, 3.4);
    k is at most M.
    """
    bank = F.normalize(bank, dim=1)
    hits = 0
    for at in range(0, len(features), 1000):
        similarity = F.normalize(features[at : at + 1000], dim=1) @ bank.T
        near, where = similarity.topk(min(k, len(bank)), dim=1)
        scores = torch.zeros(len(near), classes, device=bank.device)
        scores.scatter_add_(1, bank_labels[where], (near / temperature).exp())
        hits += (scores.argmax(1) == labels[at : at + 1000]).sum()
    return int(hits) / len(features)
