"""Projector g and predictor q: the same two-layer network (paper section 3.2, appendix C)."""

from __future__ import annotations

from torch import nn


def mlp_head(in_dim: int, hidden_dim: int = 4096, out_dim: int = 256) -> nn.Sequential:
    """Linear -> BatchNorm -> ReLU -> Linear: (N, in_dim) -> (N, out_dim).

    The last layer has no bias, as in the authors' code.
    """
    return nn.Sequential(
        nn.Linear(in_dim, hidden_dim),
        nn.BatchNorm1d(hidden_dim),
        nn.ReLU(inplace=True),
        nn.Linear(hidden_dim, out_dim, bias=False),
    )
