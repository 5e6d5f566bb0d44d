"""What features say of an encoder: rank, spread, neighbours, a linear probe. All in seconds."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

RIDGES = [10.0**exponent for exponent in range(-4, 3)]  # times the mean of the Gram matrix
NEIGHBOURS = 20


def effective_rank(features: Tensor) -> float:
    """Compute RankMe of features (N, D): 1 to min(N, D) (arXiv 2210.02885, equation 1).

    It is exp of the entropy of the singular values as shares of their sum: how many directions the
    features use, if all that they use count alike.
    """
    values = torch.linalg.svdvals(features.double())
    shares = values / values.sum().clamp_min(1e-12) + 1e-7
    return float(torch.exp(-(shares * shares.log()).sum()))


def first_direction(features: Tensor) -> float:
    """Compute the share of the variance of features (N, D) in their first principal direction."""
    variances = torch.linalg.svdvals((features - features.mean(0)).double()).square()
    return float(variances[0] / variances.sum().clamp_min(1e-12))


def alignment(one: Tensor, other: Tensor) -> float:
    """Compute how far two views of a photo lie apart, 0 to 4 (arXiv 2005.10242, alpha 2).

    one, other: features (N, D), which are scaled to length 1. The mean of the squared distances.
    """
    return float((F.normalize(one) - F.normalize(other)).square().sum(1).mean())


def uniformity(features: Tensor) -> float:
    """Compute how evenly features (N, D) lie on the sphere, -4 to 0 (arXiv 2005.10242, t 2).

    The log of the mean of exp(-2 d^2) over all pairs, at length 1; 0 is if all are the same.
    """
    return float(torch.pdist(F.normalize(features)).square().mul(-2).exp().mean().log())


def neighbours_accuracy(features: Tensor, labels: Tensor, groups: Tensor) -> float:
    """Compute the share of features (N, D) whose neighbours among the others have their label.

    The most similar by cosine vote, each with one vote: the nearest `NEIGHBOURS`, or as many as the
    square root of N if that is less. Features of the same group (N,) do not count. A tie counts as
    its share.
    """
    unit = F.normalize(features)
    similarity = unit @ unit.T
    similarity[groups[:, None] == groups] = -torch.inf
    count = min(NEIGHBOURS, max(1, int(len(features) ** 0.5)))
    near, who = similarity.topk(min(count, len(features)), dim=1)
    votes = F.one_hot(labels)[who].double() * near.isfinite()[..., None]
    votes = votes.sum(1)  # (N, classes)
    best = votes == votes.max(1, keepdim=True).values
    right = best.gather(1, labels[:, None]).squeeze(1) / best.sum(1)
    return float(right.double().mean())


def linear_accuracy(features: Tensor, labels: Tensor, folds: Tensor) -> float:
    """Compute the accuracy of ridge regression on features (N, D) by cross-validation.

    A classifier learns without each fold (N,) and is tested on it. It regresses on the classes as
    -1 and 1, about the mean. The ridge is the one of `RIDGES` with the best accuracy. That is a
    milder test than the linear evaluation of evaluate.py, and takes milliseconds.
    """
    x, classes = features.double(), int(labels.max()) + 1
    targets = 2 * F.one_hot(labels, classes).double() - 1
    right = torch.zeros(len(RIDGES), dtype=torch.float64)
    for fold in folds.unique().tolist():
        test, train = folds == fold, folds != fold
        mean, middle = x[train].mean(0), targets[train].mean(0)
        known, asked = x[train] - mean, x[test] - mean
        values, vectors = torch.linalg.eigh(known @ known.T)  # the weights lie in their span
        inner, like = vectors.T @ (targets[train] - middle), (asked @ known.T) @ vectors
        for at, ridge in enumerate(RIDGES):
            strength = (ridge * values.mean()).clamp_min(1e-12)
            scores = like @ (inner / (values.clamp_min(0) + strength)[:, None]) + middle
            right[at] += (scores.argmax(1) == labels[test]).sum()
    return float(right.max() / len(labels))
