"""Whitened targets, so that no few directions rule what the online network learns to predict.

In BYOL's short runs the target's projections come to lie in few directions: in one of 120 epochs
eight of 256 held 99.9 % of the variance. What else two views share, as the network still saw, had
next to no part in the loss. Whitened, each direction counts about alike. In the terms of Zhuo et
al. (arXiv 2303.02387, section 5) this is a high-pass filter of the target; the whitening matrix is
a Cholesky factor's inverse, as in W-MSE (Ermolov et al., arXiv 2007.06346).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOMENTUM = 0.01  # of the running statistics: the part of the newest batch
LEAST_VARIANCE = 1e-12  # of unit vectors; below it all of them are one


class Whitening(nn.Module):
    """Whitens the target's projections of P outputs, by running statistics of their unit vectors.

        z -> L^-1 (z / |z| - mean),  L L^T = covariance + shrinkage * trace(covariance) * I

    A direction whose part of the variance is well above `shrinkage` gets variance 1, one well below
    it stays small. Before the first `refresh` it changes no direction: z -> z / |z|.
    """

    def __init__(self, outputs: int, dim: int, shrinkage: float):
        super().__init__()
        self.shrinkage = shrinkage
        self.register_buffer("batches", torch.zeros(()))
        self.register_buffer("moments", torch.zeros(outputs, 1 + dim, dim))  # of z, and of z z^T
        self.register_buffer("mean", torch.zeros(outputs, 1, dim))
        self.register_buffer("matrix", torch.eye(dim).repeat(outputs, 1, 1))  # L^-1

    @torch.no_grad()
    def forward(self, *views: Sequence[Tensor]) -> list[list[Tensor]]:
        """Whiten each view's P projections (N, D), and take all views into the statistics.

        Gives as many as it takes, in float32. It whitens by what the last `refresh` knew.
        """
        with torch.autocast(self.mean.device.type, enabled=False):
            stacked = torch.stack([torch.cat(of_output) for of_output in zip(*views, strict=True)])
            z = F.normalize(stacked.to(self.mean.dtype), dim=2)  # (P, V N, D)
            moments = torch.cat([z.mean(1, keepdim=True), z.mT @ z / z.shape[1]], dim=1)
            self.batches.add_(1)
            self.moments.lerp_(moments, self.batches.reciprocal().clamp(min=MOMENTUM))
            whitened = (z - self.mean) @ self.matrix.mT
        return [list(view.unbind()) for view in whitened.chunk(len(views), dim=1)]

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the running statistics. Call it after each step."""
        mean, second = self.moments[:, :1], self.moments[:, 1:]
        covariance = second - mean.mT @ mean
        variance = covariance.diagonal(dim1=1, dim2=2).sum(1).clamp(min=LEAST_VARIANCE)
        identity = torch.eye(covariance.shape[2], device=mean.device).expand_as(covariance)
        covariance += self.shrinkage * variance[:, None, None] * identity
        factor, _ = torch.linalg.cholesky_ex(covariance)  # asks nothing of the device
        self.matrix.copy_(torch.linalg.solve_triangular(factor, identity, upper=False))
        self.mean.copy_(mean)
