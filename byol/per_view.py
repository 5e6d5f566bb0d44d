"""BatchNorm for two views in one pass: each half of the batch is normalised on its own.

The sums are those of two passes, one for each view, running statistics included. One pass is faster
for small batches of small images on a CPU, where the last stages of a network are bound by their
weights; for large ones splitting and joining the maps costs more than it brings (see
benchmarks/README.md).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

MOST_PIXELS = 2**18  # of a batch of one view, up to which one pass is the faster: 64 of 64 x 64


class _PerView:
    def forward(self, x: Tensor) -> Tensor:
        """(2N, ...): view 1, then view 2. In evaluation mode there are no views to tell apart."""
        if not self.training:
            return super().forward(x)
        if len(x) % 2:
            raise ValueError(f"a batch of two views has an even size, not {len(x)}")
        return torch.cat([super(_PerView, self).forward(view) for view in x.chunk(2)])


class PerViewBatchNorm1d(_PerView, nn.BatchNorm1d):
    pass


class PerViewBatchNorm2d(_PerView, nn.BatchNorm2d):
    pass


def normalise_views_apart(model: nn.Module) -> None:
    """Make each BatchNorm in `model` one of the above; its parameters and buffers stay."""
    for module in model.modules():
        if type(module) is nn.BatchNorm1d:
            module.__class__ = PerViewBatchNorm1d
        elif type(module) is nn.BatchNorm2d:
            module.__class__ = PerViewBatchNorm2d
