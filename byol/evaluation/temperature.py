"""Calibrated probabilities: the temperature of scores, and how far off they are."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def find_temperature(scores: Tensor, truth: Tensor) -> float:
    """Find the T for which softmax(scores / T) is most likely to give the labels (1706.04599).

    scores: (N, classes). truth: (N,). As in Platt's scaling the labels count as slightly uncertain:
    N + 1 of N + classes are right. So T stays above 0 if no score is wrong.
    """
    classes = scores.shape[1]
    smoothing = classes / (len(scores) + classes)
    scores = scores.double()
    log_t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_t], max_iter=200, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(scores / log_t.exp(), truth, label_smoothing=smoothing)
        loss.backward()
        return loss

    optimizer.step(objective)
    return float(log_t.detach().exp().clamp(1e-3, 1e3))


def calibration_error(scores: Tensor, truth: Tensor, bins: int = 15) -> float:
    """Compute the expected calibration error: |accuracy - confidence|, averaged over the images.

    Images are gathered in `bins` of equal width by their confidence (1706.04599, equation 3).
    """
    confidence, predicted = scores.double().softmax(1).max(1)
    bin_of = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gap = (predicted == truth).double() - confidence
    return float(torch.zeros(bins, dtype=torch.float64).index_add(0, bin_of, gap).abs().sum()
                 / len(scores))  # fmt: skip
