"""Test images that are nearly the same as a training image."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor

from byol.errors import printable
from byol.evaluation.duplicates import AGREEMENT, pair_agreements
from byol.evaluation.features import FeatureExtractor, Standardise
from byol.evaluation.similarity import near_duplicates

NEAR = 0.95  # cosine of standardised features, from which photos are near-duplicates
MOST_COMPARED = 10_000  # pairs of photos, by their pixels
MOST_MIRRORED = 5_000  # training images, of which mirrored copies are looked for as well


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
            extract = copy.copy(extract)
            extract.mirrored = True
            bank = torch.cat([bank, extract(encoder, photos, train_rows, "mirrored images")])
            rows = np.concatenate([train_rows, train_rows])
        bank, asked = bank[:, : encoder.dim], asked[:, : encoder.dim]
        standardise = Standardise(torch.cat([bank, asked]), [encoder.dim])
        alike = [np.empty((0, 2), np.int64)]
        for pairs in near_duplicates(standardise(asked), standardise(bank), NEAR):
            at, of = pairs.T.cpu().numpy()
            alike.append(np.stack([test_rows[at], rows[of]], axis=1))
        pairs = np.unique(np.concatenate(alike), axis=0)[:MOST_COMPARED]
        # what an encoder takes for the same may be two black cats: the pixels decide
        same = pairs[pair_agreements(photos, pairs) >= AGREEMENT]
        of_test = dict(same.tolist())
        self.pairs = {row: of_test[row] for row in test_rows.tolist() if row in of_test}

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
