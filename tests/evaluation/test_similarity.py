"""Photos that are alike."""

import pytest
import torch
import torch.nn.functional as F

from byol.evaluation import similarity
from byol.evaluation.similarity import near_duplicates


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(similarity, "BLOCK", 7)


def pairs_of(found) -> set[tuple[int, int]]:
    blocks = list(found)
    assert all(block.dtype == torch.int64 and block.shape[1] == 2 for block in blocks)
    listed = [tuple(pair) for block in blocks for pair in block.tolist()]
    assert len(listed) == len(set(listed))
    return set(listed)


@pytest.mark.parametrize("threshold", [-1, 0.2, 0.9])
def test_pairs_are_those_of_the_cosine(threshold):
    torch.manual_seed(0)
    a, b = torch.randn(30, 4), 5 * torch.randn(20, 4)
    cosines = F.cosine_similarity(a[:, None], b[None], dim=2)
    expected = {(i, j) for i in range(30) for j in range(20) if cosines[i, j] >= threshold}
    assert len(expected) > 5
    assert pairs_of(near_duplicates(a, b, threshold)) == expected


def test_pairs_among_the_same_photos_come_once():
    torch.manual_seed(0)
    a = torch.randn(30, 4)
    cosines = F.cosine_similarity(a[:, None], a[None], dim=2)
    expected = {(i, j) for i in range(30) for j in range(i + 1, 30) if cosines[i, j] >= 0.5}
    assert len(expected) > 20
    assert pairs_of(near_duplicates(a, None, 0.5)) == expected


def test_features_that_are_all_zero_are_like_none():
    assert pairs_of(near_duplicates(torch.zeros(9, 4), None, 0.5)) == set()
