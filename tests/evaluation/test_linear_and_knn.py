"""Linear evaluation against its optimality conditions, neighbours against brute force."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from byol.errors import UserError
from byol.evaluation import linear_and_knn
from byol.evaluation.features import Standardise
from byol.evaluation.linear_and_knn import (
    MOST_IMAGES_TO_CHOOSE,
    STRENGTHS,
    FeatureBank,
    fit_linear,
    knn_accuracy,
)
from byol.evaluation.linear_and_knn import _folds as folds_of


def blobs(count, width=8, classes=3, noise=1.5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=generator)
    labels = torch.arange(count) % classes
    return centres[labels] + noise * torch.randn(count, width, generator=generator), labels


def gradient(head, x, y, strength):
    """Of sum of cross-entropies + strength / 2 * |W|^2, by its closed form in numpy."""
    w, b = head.weight.detach().double().numpy(), head.bias.detach().double().numpy()
    x, y = x.double().numpy(), y.numpy()
    scores = x @ w.T + b
    p = np.exp(scores - scores.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[np.arange(len(y)), y] -= 1
    return p.T @ x + strength * w, p.sum(0)


@pytest.mark.parametrize("width", [8, 500])  # fewer and more than images
def test_the_head_is_at_the_minimum(width):
    x, y = blobs(300, width)
    head, strength = fit_linear(x, y, 3)
    by_weight, by_bias = gradient(head, x, y, strength)
    with torch.no_grad():
        start = nn.Linear(width, 3)
        start.weight.zero_()
        start.bias.zero_()
    first = np.abs(gradient(start, x, y, 0)[0]).max()
    assert np.abs(by_weight).max() < 1e-3 * first
    assert np.abs(by_bias).max() < 1e-3 * first


@pytest.fixture
def quick(monkeypatch):
    """Two strengths that are fitted fast."""
    monkeypatch.setattr(linear_and_knn, "STRENGTHS", [1e3, 10.0])


def test_the_same_input_gives_the_same_head(quick):
    x, y = blobs(30)
    one, other = fit_linear(x, y, 3)[0], fit_linear(x, y, 3)[0]
    assert torch.equal(one.weight, other.weight)
    assert torch.equal(one.bias, other.bias)


def test_cross_validation_finds_a_strength_that_suits():
    """Many features of noise and few images want a strong penalty; clean ones a weak one."""
    x, y = blobs(60, width=200, noise=8.0)
    _, noisy = fit_linear(x, y, 3)
    x, y = blobs(900, width=3, noise=0.3)
    _, clean = fit_linear(x, y, 3)
    assert noisy >= 100
    assert clean <= 10
    assert {noisy, clean} <= set(STRENGTHS)


def test_cross_validation_never_sees_a_test_label():
    """Labels that are pure chance: a strong penalty wins, with which no class is predicted."""
    x, _ = blobs(200, width=50)
    y = torch.arange(200)[torch.randperm(200, generator=torch.Generator().manual_seed(3))] % 2
    head, strength = fit_linear(x, y, 2)
    assert strength >= 100
    assert head(x).softmax(1).sub(0.5).abs().max() < 0.3


@pytest.mark.parametrize("count", [47, MOST_IMAGES_TO_CHOOSE + 2500])
def test_folds_are_balanced_over_the_classes(count):
    labels = torch.arange(count) % 4
    fold = folds_of(labels, 5)
    assert (fold >= 0).sum() == min(count, MOST_IMAGES_TO_CHOOSE)
    for number in range(5):
        sizes = torch.bincount(labels[fold == number], minlength=4)
        assert sizes.max() - sizes.min() <= 1
    assert not torch.equal(fold[fold >= 0], torch.arange((fold >= 0).sum()) % 5)


def test_a_class_with_one_image_is_one_sentence():
    x, _ = blobs(7)
    with pytest.raises(
        UserError, match="two labelled images of each class, and of one there are 1"
    ):
        fit_linear(x, torch.tensor([0, 0, 0, 1, 1, 1, 2]), 3)


@pytest.mark.parametrize("k", [3, 200])
def test_neighbours_vote_as_brute_force_does(k):
    bank, labels = blobs(50)
    queries, truth = blobs(40, seed=1)
    hits = 0
    for query, right in zip(queries.tolist(), truth.tolist(), strict=True):
        similar = []
        for other, label in zip(bank.tolist(), labels.tolist(), strict=True):
            dot = sum(a * b for a, b in zip(query, other, strict=True))
            similar.append((dot / math.hypot(*query) / math.hypot(*other), label))
        votes = [0.0] * 3
        for cosine, label in sorted(similar, reverse=True)[:k]:
            votes[label] += math.exp(cosine / 0.1)
        hits += votes.index(max(votes)) == right
    assert knn_accuracy(bank, labels, queries, truth, 3, k=k) == hits / 40
    assert 0 < hits < 40


def test_representations_take_the_parts_they_should():
    """The first part says nothing and the second everything, but at a thousandth of the scale."""
    generator = torch.Generator().manual_seed(0)
    labels = np.arange(400) % 2
    noise = 1000 * torch.randn(400, 4, generator=generator)
    signal = 0.2 * torch.randn(400, 2, generator=generator) + torch.from_numpy(labels)[:, None]
    rows = np.arange(400)[::-1].copy()  # in another order than the labels
    values = torch.cat([noise, signal], dim=1)[rows.copy()]
    bank = FeatureBank(values, rows, labels, {"avgpool": 4, "layer2.0": 2})
    train, test = np.arange(200), np.arange(200, 400)
    accuracies = {name: bank.judge(name, train, test, 2) for name in ("avgpool", "combined")}
    assert accuracies["avgpool"][0] < 0.65
    assert accuracies["avgpool"][2] < 0.65
    assert accuracies["combined"][0] > 0.95
    assert accuracies["combined"][2] > 0.8


def test_confusion_matrices_are_those_of_each_image_alone(quick):
    """Of uneven classes: by the head and by brute force over the neighbours."""
    x, y = blobs(260)
    keep = (y != 2) | (torch.arange(260) % 4 == 0)
    x, y = x[keep], y[keep]
    rows = np.arange(len(x))
    bank = FeatureBank(x, rows, y.numpy(), {"avgpool": 8})
    train, test = rows[:100], rows[100:]
    linear, _, knn = bank.confusions("avgpool", train, test, 3)
    standardise = Standardise(x[:100], [8])
    head, _ = fit_linear(standardise(x[:100]), y[:100], 3)
    expected = {"linear": np.zeros((3, 3), int), "knn": np.zeros((3, 3), int)}
    near = [nn.functional.normalize(part, dim=1) for part in (x[:100], x[100:])]
    for at, label in zip(range(len(test)), y[100:].tolist(), strict=True):
        with torch.no_grad():
            said = head(standardise(x[100 + at])).argmax()
        expected["linear"][label, said] += 1
        votes = np.zeros(3)
        for other, of in zip(near[0], y[:100].tolist(), strict=True):
            votes[of] += math.exp(float(near[1][at] @ other) / 0.1)
        expected["knn"][label, votes.argmax()] += 1
    assert linear == expected["linear"].tolist()
    assert knn == expected["knn"].tolist()
    accuracies = bank.judge("avgpool", train, test, 3)
    assert accuracies[0] == np.trace(linear) / len(test)
    assert accuracies[2] == np.trace(knn) / len(test)
