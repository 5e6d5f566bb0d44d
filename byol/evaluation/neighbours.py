"""Which photos an encoder takes for the most similar, and how often they are of one class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from byol.evaluation.looked_at import spread
from byol.evaluation.similarity import nearest

COUNT = 5  # neighbours of each photo
QUERIES = 10


@dataclass
class Neighbours:
    """The neighbours of some photos among themselves.

    places: int64 (N, COUNT), the most similar first. right: share of them in the class of their
    photo; None if there are no two classes.
    """

    places: np.ndarray
    right: float | None


def find_neighbours(features: Tensor, labels: np.ndarray, count: int = COUNT) -> Neighbours:
    """Find the neighbours of each row of features (N, D) among the others, by cosine.

    labels: (N,), of all photos, or -1 for those without a class; then nothing is counted.
    """
    itself = torch.arange(len(features), device=features.device)
    _, places = nearest(features, features, count, torch.stack([itself, itself], 1))
    places = places.cpu().numpy()
    if chance(labels) is None:
        return Neighbours(places, None)
    return Neighbours(places, float((labels[places] == labels[:, None]).mean()))


def chance(labels: np.ndarray) -> float | None:
    """Compute the share of neighbours in the right class, if they were drawn at random.

    labels: (N,), -1 for no class. None if there are such, or fewer than two classes.
    """
    if (labels < 0).any() or len(np.unique(labels)) < 2:
        return None
    counts = np.bincount(labels)
    total = counts.sum()
    return float((counts * (counts - 1)).sum() / (total * (total - 1)))


def pick_queries(labels: np.ndarray, count: int = QUERIES) -> list[int]:
    """Pick places in labels (N,): evenly spread over the photos of a class, the classes in turn.

    Without classes they are spread over all photos.
    """
    if (labels >= 0).any():
        of_class = [np.flatnonzero(labels == label) for label in np.unique(labels[labels >= 0])]
    else:
        of_class = [np.arange(len(labels))]
    each = [spread(places, -(-count // len(of_class))).tolist() for places in of_class[:count]]
    turns = [places[turn : turn + 1] for turn in range(count) for places in each]
    return sorted(
        [place for turn in turns for place in turn][:count],
        key=lambda place: (labels[place], place),
    )
