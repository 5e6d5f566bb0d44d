"""How unlike the photos of training another photo looks, by its nearest neighbours among them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from byol.encoder import Encoder
from byol.evaluation.features import BATCH, FeatureExtractor, Standardise
from byol.evaluation.looked_at import spread
from byol.hardware.batches import gather

MOST = 1_000  # photos of training that are kept
NEIGHBOURS = 10
# The later the block, the more it tells what is on a photo, and the less how the photo is made: a
# drawing of a cat has all that a classifier of cats looks for.
BLOCK = "layer1.0"


def looks_of(
    extract: FeatureExtractor, encoder: Encoder, images: Tensor, sizes: np.ndarray
) -> tuple[Tensor, Tensor]:
    """Compute features (N, width) as `extract.of_batch` does, and on the way how the photos look.

    Looks are the mean and the deviation of each channel of `BLOCK` over its map: (N, 2 C), float32.
    With these statistics the style of a picture can be told and changed (Huang and Belongie, arXiv
    1703.06868).
    """
    maps: list[Tensor] = []
    block = encoder.get_submodule(BLOCK)
    handle = block.register_forward_hook(lambda _block, _images, result: maps.append(result))
    try:
        features = extract.of_batch(encoder, images, sizes)
    finally:
        handle.remove()
    deviation, mean = torch.std_mean(maps[0].float(), dim=(2, 3))
    return features, torch.cat([mean, deviation], dim=1)


def looks_of_rows(extract: FeatureExtractor, encoder: Encoder, photos, rows: np.ndarray) -> Tensor:
    """Compute the looks (len(rows), 2 C) of `rows` of `photos`. The encoder's mode stays."""
    was_training = encoder.training
    encoder.eval()
    looks = [
        looks_of(extract, encoder, gather(photos.images, some, extract.device), photos.sizes[some])
        for some in np.split(rows, range(BATCH, len(rows), BATCH))
    ]
    encoder.train(was_training)
    return torch.cat([of_batch for _, of_batch in looks])


class Familiar:
    """Knows some photos of training by their looks.

    A photo's distance is the mean Euclidean distance to its `NEIGHBOURS` nearest among them, in
    looks that are standardised by them. Its outlier factor is this distance as a multiple of
    the same of these neighbours: the local outlier factor (Breunig et al., SIGMOD 2000), without
    its smoothing. The distance alone misleads: plain pictures lie close to everything.
    """

    def __init__(
        self, mean: Tensor, scale: Tensor, known: Tensor, distances: Tensor, factors: Tensor
    ):
        """mean, scale: (width,). known: (M, width), standardised, M of 2 or more.

        distances: (M,), of each known photo to the others. factors: (M,), theirs, sorted.
        """
        self.mean, self.scale, self.known = mean, scale, known
        self.distances, self.factors = distances, factors

    @classmethod
    def of(cls, looks: Tensor) -> Familiar:
        """Learn the looks (M, width) of photos, M of 2 or more."""
        standardise = Standardise(looks, [looks.shape[1]])
        known = standardise(looks).half()
        near, who = _nearest(known.float(), known.float(), itself=True)
        factors = _factors(near, near[who]).sort().values
        return cls(standardise.mean, standardise.scale, known, near, factors)

    def unlike(self, looks: Tensor) -> Tensor:
        """Compute the share of the known photos that have a lower outlier factor: (N,), 0 to 1.

        looks: (N, width), see `looks_of`.
        """
        standardised = (looks - self.mean) * self.scale
        near, who = _nearest(standardised, self.known.float(), itself=False)
        factors = _factors(near, self.distances[who])
        return torch.searchsorted(self.factors, factors) / len(self.factors)

    def state_dict(self) -> dict[str, Tensor]:
        """Give what a file holds; `Familiar(**state)` is the same."""
        names = "mean", "scale", "known", "distances", "factors"
        return {name: getattr(self, name).cpu() for name in names}

    def to(self, device: torch.device) -> Familiar:
        """Give the same on another device."""
        return Familiar(**{name: value.to(device) for name, value in self.state_dict().items()})


def _nearest(asked: Tensor, known: Tensor, itself: bool) -> tuple[Tensor, Tensor]:
    """Find the nearest of `known` (M, width): mean distance (N,), and which ones they are (N, k).

    itself: `asked` are the known ones, and none is its own neighbour.
    """
    apart = torch.cdist(asked, known)  # (N, M)
    if itself:
        apart.fill_diagonal_(torch.inf)
    near, who = apart.topk(min(NEIGHBOURS, len(known) - itself), largest=False)
    return near.mean(1), who


def _factors(distances: Tensor, of_neighbours: Tensor) -> Tensor:
    """Compute distances (N,) as multiples of the neighbours' own (N, k)."""
    return distances / of_neighbours.mean(1).clamp_min(1e-12)


def some_known(labelled: np.ndarray, unlabelled: np.ndarray) -> np.ndarray:
    """Pick at most `MOST` rows: of the labelled first, then of the others, evenly spread."""
    some = spread(labelled, MOST)
    return np.sort(np.concatenate([some, spread(unlabelled, MOST - len(some))]))
