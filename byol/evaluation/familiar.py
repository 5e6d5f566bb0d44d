"""How unlike the photos of training another photo is, by its nearest neighbours among them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from byol.evaluation.features import Standardise

MOST = 1_000  # photos of training that are kept
NEIGHBOURS = 5


class Familiar:
    """Knows some photos of training by their features.

    A photo's distance is the mean Euclidean distance to its `NEIGHBOURS` nearest among them, in
    features that are standardised by them (arXiv 2204.06507 uses the k-th).
    """

    def __init__(self, mean: Tensor, scale: Tensor, known: Tensor, distances: Tensor):
        """mean, scale: (width,). known: (M, width), standardised, M of 2 or more.

        distances: (M,), those of the known photos to each other, sorted.
        """
        self.mean, self.scale, self.known, self.distances = mean, scale, known, distances

    @classmethod
    def of(cls, features: Tensor, widths: Sequence[int]) -> Familiar:
        """Learn features (M, width) of photos: blocks of `widths` side by side, M of 2 or more."""
        standardise = Standardise(features, widths)
        known = standardise(features).half()
        familiar = cls(standardise.mean, standardise.scale, known, features.new_empty(0))
        apart = familiar._distances(known.float(), itself=True)
        familiar.distances = apart.sort().values
        return familiar

    def unlike(self, features: Tensor) -> Tensor:
        """Compute the share of the known photos that lie closer to their neighbours: (N,), 0 to 1.

        features: (N, width), as the network gives them.
        """
        distances = self._distances((features - self.mean) * self.scale, itself=False)
        return torch.searchsorted(self.distances, distances) / len(self.distances)

    def _distances(self, standardised: Tensor, itself: bool) -> Tensor:
        """Compute the distance of each row (N, width); `itself`: the rows are the known ones."""
        apart = torch.cdist(standardised, self.known.float())  # (N, M)
        if itself:
            apart.fill_diagonal_(torch.inf)
        count = min(NEIGHBOURS, len(self.known) - itself)
        return apart.topk(count, largest=False).values.mean(1)

    def state_dict(self) -> dict[str, Tensor]:
        """Give what a file holds; `Familiar(**state)` is the same."""
        names = "mean", "scale", "known", "distances"
        return {name: getattr(self, name).cpu() for name in names}

    def to(self, device: torch.device) -> Familiar:
        """Give the same on another device."""
        return Familiar(**{name: value.to(device) for name, value in self.state_dict().items()})


def some_known(labelled: np.ndarray, unlabelled: np.ndarray) -> np.ndarray:
    """Pick at most `MOST` rows: of the labelled first, then of the others, evenly spread."""
    some = _spread(labelled, MOST)
    return np.sort(np.concatenate([some, _spread(unlabelled, MOST - len(some))]))


def _spread(rows: np.ndarray, most: int) -> np.ndarray:
    places = np.linspace(0, len(rows) - 1, min(most, len(rows)))
    return rows[places.astype(np.int64)]
