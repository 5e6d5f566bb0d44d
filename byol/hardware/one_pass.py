"""BYOL with both views in one pass through the networks, for small batches on a CPU.

BatchNorm still normalises each view on its own. The sums are those of two passes, one for each
view, running statistics included. One pass is faster for small images on a CPU, because the last
stages of a network are bound by their weights there; for large images splitting and joining the
maps costs more than it brings (see benchmarks/README.md).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from byol.method import BYOL, regression_loss, spread

MOST_PIXELS = 2**18  # of a batch of one view, up to which one pass is faster: 64 of 64 x 64


class OnePassBYOL(BYOL):
    """`BYOL` that takes both views together. `take_one_pass` makes one of a `BYOL`."""

    def terms(self, view1: Tensor, view2: Tensor) -> list[tuple[Tensor, list[Tensor]]]:
        """Give one term: both views (2N, 3, H, W), with the target's projections of the others."""
        both = torch.cat([view1, view2])
        halves = (projections.chunk(2) for projections in self.target_projections(both))
        targets = zip(*halves, strict=True)  # of view 1 and of view 2, P each
        target1, target2 = self.whitening(*targets) if self.whitening else targets
        return [(both, [torch.cat(pair) for pair in zip(target2, target1, strict=True)])]

    def predict(self, view: Tensor, targets: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Predict `targets` from both views: (losses, spreads), each (P,); a loss is in 0..8.

        The spreads are those of the first view.
        """
        count = len(view) // 2  # photos
        features = self.encoder.outputs(view, self.inner_blocks)
        losses, spreads = [], []
        heads = zip(self.outputs, self.projectors, self.predictors, targets, strict=True)
        for output, projector, predictor, target in heads:
            projection = projector(features[output])  # (2N, projection_dim)
            losses.append(regression_loss(predictor(projection), target).sum() / count)
            spreads.append(spread(projection[:count]))
        return torch.stack(losses), torch.stack(spreads)


def take_one_pass(model: BYOL) -> None:
    """Make `model` a `OnePassBYOL`. Its parameters, its buffers and their names stay."""
    model.__class__ = OnePassBYOL
    for module in model.modules():
        if type(module) is nn.BatchNorm1d:
            module.__class__ = PerViewBatchNorm1d
        elif type(module) is nn.BatchNorm2d:
            module.__class__ = PerViewBatchNorm2d


class _PerView:
    def forward(self, x: Tensor) -> Tensor:
        """Normalise view 1 and view 2 of x (2N, ...) apart; in evaluation mode, x as it is."""
        if not self.training:
            return super().forward(x)
        if len(x) % 2:
            raise ValueError(f"a batch of two views has an even size, not {len(x)}")
        return torch.cat([super(_PerView, self).forward(view) for view in x.chunk(2)])


class PerViewBatchNorm1d(_PerView, nn.BatchNorm1d):
    pass


class PerViewBatchNorm2d(_PerView, nn.BatchNorm2d):
    pass
