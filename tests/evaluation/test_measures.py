"""What features say of an encoder: closed forms, and loops over all pairs."""

import math

import numpy as np
import pytest
import torch

from byol.evaluation import measures


def noise(count: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("used", "width"), [(1, 6), (3, 6), (6, 6)])
def test_the_effective_rank_counts_directions_that_are_used_alike(used, width):
    features = torch.zeros(60, width)
    features[torch.arange(60), torch.arange(60) % used] = 5.0
    assert measures.effective_rank(features) == pytest.approx(used, rel=1e-4)


def test_the_effective_rank_is_that_of_the_paper():
    """Singular values 4 and 1: shares 0.8 and 0.2."""
    features = torch.diag(torch.tensor([4.0, 1.0]))
    entropy = -(0.8 * math.log(0.8) + 0.2 * math.log(0.2))
    assert measures.effective_rank(features) == pytest.approx(math.exp(entropy), rel=1e-4)


def test_the_first_direction_has_its_share_of_the_variance():
    """Variances 9 and 1 about a mean that does not count."""
    corners = torch.tensor([[3.0, 1], [3, -1], [-3, 1], [-3, -1]]) + 100
    turn = torch.tensor([[0.6, 0.8], [-0.8, 0.6]])
    assert measures.first_direction(corners @ turn) == pytest.approx(0.9, rel=1e-6)


def test_alignment_is_the_squared_distance_at_length_one():
    one, other = torch.tensor([[2.0, 0], [0, 5]]), torch.tensor([[7.0, 0], [0, -1]])
    assert measures.alignment(one, other) == pytest.approx((0 + 4) / 2)


def test_uniformity_is_that_of_a_loop_over_all_pairs():
    features = noise(9, 4)
    unit = features.numpy() / np.linalg.norm(features.numpy(), axis=1, keepdims=True)
    pairs = [np.sum((unit[i] - unit[j]) ** 2) for i in range(9) for j in range(i)]
    expected = np.log(np.mean(np.exp(-2 * np.array(pairs))))
    assert measures.uniformity(features) == pytest.approx(expected, rel=1e-5)
    assert measures.uniformity(torch.ones(5, 3)) == pytest.approx(0)


def test_neighbours_are_others_and_never_of_the_same_group():
    features = torch.tensor([[1.0, 0], [1, 0.01], [0, 1], [0.01, 1]])
    labels = torch.tensor([0, 0, 1, 1])
    alone = torch.arange(4)
    assert measures.neighbours_accuracy(features, labels, alone) == 0.5  # two votes, a tie
    nearest = torch.cat([features] * 3)[:9], torch.cat([labels] * 3)[:9]
    assert measures.neighbours_accuracy(*nearest, torch.arange(9)) > 0.9
    pairs = torch.tensor([0, 0, 1, 1])  # the nearest is of the same group
    assert measures.neighbours_accuracy(features, labels, pairs) == 0


def test_neighbours_are_those_of_a_loop():
    features, labels = noise(50, 5), torch.randint(0, 3, (50,), generator=torch.manual_seed(1))
    unit = torch.nn.functional.normalize(features)
    right = 0.0
    for i in range(50):
        near = sorted((j for j in range(50) if j != i), key=lambda j: -float(unit[i] @ unit[j]))
        votes = np.bincount(labels[near[:7]], minlength=3)
        best = np.flatnonzero(votes == votes.max())
        right += (int(labels[i]) in best) / len(best)
    found = measures.neighbours_accuracy(features, labels, torch.arange(50))
    assert found == pytest.approx(right / 50)


def test_the_linear_probe_is_ridge_regression_in_its_usual_form():
    """(X'X + r I)^-1 X'Y about the mean, fold by fold, with the best ridge."""
    x = noise(60, 5)
    labels = (x[:, 0] + 0.7 * noise(60, 1, 1)[:, 0] > 0).long()
    folds = torch.arange(60) % 3
    rights = []
    for ridge in measures.RIDGES:
        right = 0
        for fold in range(3):
            train = folds != fold
            known = x[train].double().numpy()
            y = np.eye(2)[labels[train]] * 2 - 1
            mean, middle = known.mean(0), y.mean(0)
            known = known - mean
            strength = ridge * np.trace(known @ known.T) / len(known)
            weights = np.linalg.solve(
                known.T @ known + strength * np.eye(5), known.T @ (y - middle)
            )
            scores = (x[~train].double().numpy() - mean) @ weights + middle
            right += (scores.argmax(1) == labels[~train].numpy()).sum()
        rights.append(right / 60)
    assert measures.linear_accuracy(x, labels, folds) == pytest.approx(max(rights))
    assert 0.6 < max(rights) < 1


def test_the_linear_probe_learns_nothing_from_noise_and_all_from_a_line():
    labels = torch.arange(200) % 2
    folds = torch.arange(200) // 2 % 5
    assert 0.35 < measures.linear_accuracy(noise(200, 400), labels, folds) < 0.65
    line = noise(200, 8) + 6 * labels[:, None]
    assert measures.linear_accuracy(line, labels, folds) == 1
