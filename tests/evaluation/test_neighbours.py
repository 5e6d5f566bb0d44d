"""Neighbours, axes and a spread choice, against numpy and cases that are worked out by hand."""

import numpy as np
import pytest
import torch

from byol.evaluation import similarity
from byol.evaluation.similarity import (
    farthest_first,
    k_means,
    most_central,
    nearest,
    principal_axes,
)


def at_angles(*degrees: float) -> torch.Tensor:
    """Points at these angles, at lengths that must not matter."""
    angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    lengths = torch.linspace(1, 5, len(degrees), dtype=torch.float64)
    return (torch.stack([angles.cos(), angles.sin()], dim=1) * lengths[:, None]).float()


@pytest.fixture
def groups() -> tuple[torch.Tensor, np.ndarray]:
    """Three groups of 60, 30 and 10 points around axes, in a random order."""
    draws = np.random.default_rng(0)
    truth = draws.permutation(np.repeat([0, 1, 2], [60, 30, 10]))
    points = np.eye(8)[truth] + draws.normal(0, 0.05, (100, 8))
    return torch.from_numpy(points).float(), truth


def test_the_nearest_are_those_of_the_highest_cosine(monkeypatch):
    monkeypatch.setattr(similarity, "BLOCK", 3)
    queries, features = torch.randn(7, 5), torch.randn(20, 5)
    cosines, rows = nearest(queries, features, 4)
    q, f = (
        x.numpy() / np.linalg.norm(x.numpy(), axis=1, keepdims=True) for x in (queries, features)
    )
    order = np.argsort(-(q @ f.T), axis=1)[:, :4]
    assert rows.tolist() == order.tolist()
    np.testing.assert_allclose(cosines, np.take_along_axis(q @ f.T, order, 1), atol=1e-6)


def test_what_does_not_count_is_no_neighbour(monkeypatch):
    monkeypatch.setattr(similarity, "BLOCK", 2)
    points = at_angles(0, 10, 30, 90)
    itself = torch.arange(4)[:, None].expand(-1, 2)
    cosines, rows = nearest(points, points, 1, itself)
    assert rows[:, 0].tolist() == [1, 0, 1, 2]
    expected = np.cos(np.deg2rad([10, 10, 20, 60]))
    np.testing.assert_allclose(cosines[:, 0], expected, atol=1e-6)


def test_principal_axes_are_those_of_the_singular_values():
    features = torch.randn(50, 6) * torch.tensor([1.0, 5, 2, 1, 9, 1]) + 3
    places = principal_axes(features, 2)
    centred = features.numpy() - features.numpy().mean(0)
    left, values, right = np.linalg.svd(centred, full_matrices=False)
    sign = np.sign(right[np.arange(2), np.abs(right[:2]).argmax(1)])
    np.testing.assert_allclose(places, left[:, :2] * values[:2] * sign, atol=1e-3)
    # its columns stay where they are if the features point the other way round
    torch.testing.assert_close(
        principal_axes(features.flip(0), 2).flip(0), places, atol=1e-3, rtol=0
    )


def test_farthest_first_takes_the_farthest_each_time():
    assert farthest_first(at_angles(0, 10, 80, 170, 85), 4, 0).tolist() == [0, 3, 4, 1]


def test_k_means_finds_the_groups(groups):
    points, truth = groups
    _, group = k_means(points, 3, seed=0)
    pairs = {*zip(group.tolist(), truth.tolist(), strict=True)}
    assert len(pairs) == 3


def test_the_most_central_stands_for_its_group(groups):
    points, truth = groups
    rows, sizes = most_central(points, 3, seed=0)
    assert sizes.tolist() == [60, 30, 10]
    assert truth[rows].tolist() == [0, 1, 2]
    directions = points.numpy() / np.linalg.norm(points.numpy(), axis=1, keepdims=True)
    for number, row in enumerate(rows.tolist()):
        of_group = directions[truth == number]
        distance = np.linalg.norm(of_group - of_group.mean(0), axis=1)
        own = np.linalg.norm(directions[row] - of_group.mean(0))
        assert own == pytest.approx(distance.min(), abs=1e-6)
    assert most_central(points, 3, seed=0)[0].tolist() == rows.tolist()


@pytest.mark.parametrize("count", [1, 5, 12])
def test_as_many_are_chosen_as_are_asked_for_also_of_equal_photos(count):
    points = at_angles(0, 90).repeat(6, 1)
    rows, sizes = most_central(points, count, seed=1)
    assert len(set(rows.tolist())) == count == len(sizes)
    assert sizes.sum() == 12
    if count > 1:
        assert {row % 2 for row in rows[:2].tolist()} == {0, 1}
