"""Which photos are alike, by the cosine of their features."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from byol.errors import printable
from byol.evaluation.features import FeatureExtractor, Standardise

NEAR = 0.95  # cosine of standardised features, from which photos are near-duplicates
MOST_MIRRORED = 5_000  # training images, of which mirrored copies are looked for as well
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


class Mirrored:
    """Stored photos, left and right exchanged."""

    def __init__(self, images):
        self.images, self.shape = images, images.shape

    def read(self, rows: np.ndarray, out: np.ndarray) -> None:
        self.images.read(rows, out)
        out[...] = out[..., ::-1].copy()


class Duplicates:
    """The test images that are nearly the same as a training image, also mirrored or re-encoded.

    looked_at: how many test images were compared. pairs: {row of the test image: row of a training
    image}, in the order of the test images.
    """

    def __init__(
        self,
        extract: FeatureExtractor,
        encoder,
        photos,
        train: tuple[np.ndarray, Tensor],
        test: tuple[np.ndarray, Tensor],
    ):
        """train, test: rows of `photos` and their features (N, width), the average pool first."""
        (train_rows, bank), (test_rows, asked) = train, test
        names = photos.names
        self.names, self.looked_at = names, len(test_rows)
        rows = train_rows
        if len(train_rows) <= MOST_MIRRORED:
            mirrored = SimpleNamespace(images=Mirrored(photos.images), sizes=photos.sizes)
            bank = torch.cat([bank, extract(encoder, mirrored, train_rows, "mirrored images")])
            rows = np.concatenate([train_rows, train_rows])
        bank, asked = bank[:, : encoder.dim], asked[:, : encoder.dim]
        standardise = Standardise(torch.cat([bank, asked]), [encoder.dim])
        found: dict[int, int] = {}
        for pairs in near_duplicates(standardise(asked), standardise(bank), NEAR):
            for at, of in pairs.tolist():
                found.setdefault(int(test_rows[at]), int(rows[of]))
        self.pairs = {row: found[row] for row in test_rows.tolist() if row in found}

    def summary(self) -> dict:
        """Give the figures for `summary.json`."""
        return {"near_duplicates": len(self.pairs), "near_duplicates_among": self.looked_at}

    def __str__(self) -> str:
        """Name them, with what to do; nothing if there are none."""
        if not self.pairs:
            return ""
        first = [
            f"{printable(self.names[test])} ~ {printable(self.names[train])}"
            for test, train in list(self.pairs.items())[:3]
        ]
        more = ", ..." if len(self.pairs) > 3 else ""
        return (
            f"note        {len(self.pairs):,} of {self.looked_at:,} test images are nearly the "
            f"same as a training image ({', '.join(first)}{more}), so the accuracy flatters: if "
            "they belong together, give --group-by, else remove one of each"
        )
