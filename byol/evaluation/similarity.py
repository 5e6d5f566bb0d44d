"""Which photos are alike, by the cosine of their features."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 2048  # rows that are compared with as many others at a time: 16 MB
ROUNDS = 50  # of k-means, at most


def near_duplicates(a: Tensor, b: Tensor | None, threshold: float) -> Iterator[Tensor]:
    """Find the pairs whose cosine is at least `threshold`, block by block.

    a, b: features (N, D) and (M, D). Yields int64 (P, 2) of at least one pair: a row of `a`, a row
    of `b`. If `b` is None, the rows of `a` are compared with each other, each pair once, the
    smaller row first. Memory is bounded, however many pairs there are.
    """
    a = F.normalize(a.float(), dim=1)
    others = a if b is None else F.normalize(b.float(), dim=1)
    for row in range(0, len(a), BLOCK):
        block = a[row : row + BLOCK]
        for column in range(0 if b is not None else row, len(others), BLOCK):
            alike = block @ others[column : column + BLOCK].T >= threshold  # (rows, columns)
            if b is None and column == row:
                alike = alike.triu(1)
            pairs = alike.nonzero() + torch.tensor([row, column], device=a.device)
            if len(pairs):
                yield pairs


def nearest(
    queries: Tensor, features: Tensor, count: int, never: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Find the `count` most similar rows of `features` (N, D) for each of `queries` (Q, D).

    never: int64 (P, 2), pairs of a query and a row that do not count, such as a photo and itself.
    Returns cosines and rows, (Q, count) each, the most similar first.
    """
    queries, features = F.normalize(queries, dim=1), F.normalize(features, dim=1)
    cosines, rows = [], []
    for at in range(0, len(queries), BLOCK):
        alike = queries[at : at + BLOCK] @ features.T  # (BLOCK, N)
        if never is not None:
            here = never[(never[:, 0] >= at) & (never[:, 0] < at + BLOCK)]
            alike[here[:, 0] - at, here[:, 1]] = -torch.inf
        most = alike.topk(count, dim=1)
        cosines.append(most.values)
        rows.append(most.indices)
    return torch.cat(cosines), torch.cat(rows)


def principal_axes(features: Tensor, count: int) -> Tensor:
    """Project features (N, D) on their first principal axes: (N, count), the widest first.

    An axis points to where its largest part is positive, so the same photos give the same picture.
    """
    centred = (features - features.mean(0)).double()
    axes = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)[:, :count]  # (D, count)
    largest = axes.abs().argmax(0)
    axes = axes * axes[largest, torch.arange(axes.shape[1], device=axes.device)].sign()
    return (centred @ axes).float()


def farthest_first(features: Tensor, count: int, first: int) -> Tensor:
    """Choose `count` rows of features (N, D): each is farthest from all before. Starts at `first`.

    Distances are those of the features scaled to length 1.
    """
    points = F.normalize(features, dim=1)
    chosen, distance = [first], torch.full((len(points),), torch.inf, device=points.device)
    while len(chosen) < count:
        distance = torch.minimum(distance, 1 - points @ points[chosen[-1]])
        distance[chosen[-1]] = -1
        chosen.append(int(distance.argmax()))
    return torch.tensor(chosen)


def k_means(features: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Group the rows of features (N, D), scaled to length 1, around `count` centres.

    Lloyd's rounds from the best of k-means++ (Arthur and Vassilvitskii, 2007). The same seed gives
    the same groups. Returns the centres (count, D) and the group of each row, int64 (N,).
    """
    points = F.normalize(features, dim=1)
    centres = points[_spread_start(points, count, seed)]
    group = torch.zeros(len(points), dtype=torch.long, device=points.device)
    for _ in range(ROUNDS):
        before, group = group, _nearest_centre(points, centres)
        if torch.equal(before, group):
            break
        sums = torch.zeros_like(centres).index_add_(0, group, points)
        sizes = torch.bincount(group, minlength=count)
        filled = sizes > 0
        centres[filled] = sums[filled] / sizes[filled, None]  # an empty group stays where it is
    return centres, group


def most_central(features: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Choose `count` rows of features (N, D): of each group of k-means the one nearest its centre.

    Returns the rows and the sizes of their groups, int64 (count,) each, the largest group first.
    """
    points = F.normalize(features, dim=1)
    centres, group = k_means(features, count, seed)
    distance = (points - centres[group]).square().sum(1)
    sizes = torch.bincount(group, minlength=count)
    order = sizes.argsort(descending=True, stable=True).tolist()
    rows = []
    for number in order:
        of_group = (group == number).nonzero()[:, 0]
        if len(of_group):
            rows.append(int(of_group[distance[of_group].argmin()]))
    left = sorted(set(range(len(points))) - set(rows)) if len(rows) < count else []
    rows += left[: count - len(rows)]  # fewer different photos than groups: any others
    return torch.tensor(rows), sizes[order].cpu()


def _spread_start(points: Tensor, count: int, seed: int) -> Tensor:
    """Draw `count` rows of points (N, D), each with a chance like its squared distance."""
    draws = torch.Generator().manual_seed(seed)
    chosen = [int(torch.randint(len(points), (1,), generator=draws))]
    distance = torch.full((len(points),), torch.inf, device=points.device)
    while len(chosen) < count:
        distance = torch.minimum(distance, (points - points[chosen[-1]]).square().sum(1))
        distance[chosen] = 0
        chances = distance.double().cpu()
        if not chances.any():  # all that is left is equal to what is chosen
            chances = torch.ones(len(points), dtype=torch.float64)
            chances[chosen] = 0
        chosen.append(int(torch.multinomial(chances, 1, generator=draws)))
    return torch.tensor(chosen)


def _nearest_centre(points: Tensor, centres: Tensor) -> Tensor:
    """Find the centre of (K, D) that is nearest to each of points (N, D): int64 (N,)."""
    half = centres.square().sum(1) / 2
    blocks = points.split(BLOCK)
    return torch.cat([(half - block @ centres.T).argmin(1) for block in blocks])
