"""Which photos are alike, by the cosine of their features."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 2048  # rows that are compared with as many others at a time: 16 MB


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
