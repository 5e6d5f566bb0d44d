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
    features that are standardised by them. Its outlier factor is this distance as a multiple of
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
    def of(cls, features: Tensor, widths: Sequence[int]) -> Familiar:
        """Learn features (M, width) of photos: blocks of `widths` side by side, M of 2 or more."""
        standardise = Standardise(features, widths)
        known = standardise(features).half()
        near, who = _nearest(known.float(), known.float(), itself=True)
        factors = _factors(near, near[who]).sort().values
        return cls(standardise.mean, standardise.scale, known, near, factors)

    def unlike(self, features: Tensor) -> Tensor:
        """Compute the share of the known photos that have a lower outlier factor: (N,), 0 to 1.

        features: (N, width), as the network gives them.
        """
        standardised = (features - self.mean) * self.scale
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


def spread(rows: np.ndarray, most: int) -> np.ndarray:
    """Pick at most `most` of the rows, evenly spread."""
    places = np.linspace(0, len(rows) - 1, min(most, len(rows)))
    return rows[places.astype(np.int64)]
