"""BatchNorm over the batch of all processes, each view on its own.

PyTorch's `SyncBatchNorm` does this on GPUs alone, and for one view at a time. Here mean and mean of
squares of each channel are averaged over the processes, which have as many photos each, and in
backward two more sums are added up. The rest is PyTorch's own BatchNorm with given statistics. Most
layers are small, so that the number of operations counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from byol.hardware.distributed import count, sum_
from byol.hardware.one_pass import PerViewBatchNorm1d, PerViewBatchNorm2d


class _OverAll:
    views = 1  # that lie one after the other in a batch

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (V N, C, ...) by the batch of all processes; in evaluation mode as ever."""
        if not self.training:
            return super().forward(x)
        numbers = count() * x.numel() // (self.views * x.shape[1])  # of a channel, in a view
        running = [self.running_mean, self.running_var]
        statistics = statistics_of(x.detach().chunk(self.views), *running).to(self.weight)
        means, variances = statistics.unbind(1)  # (V, C)
        with torch.no_grad():  # as BatchNorm does it, one view after the other
            for of_view in zip(means, variances * (numbers / (numbers - 1)), strict=True):
                torch._foreach_lerp_(running, of_view, self.momentum)
            self.num_batches_tracked.add_(self.views)
        return _Normalise.apply(x, self.weight, self.bias, means, variances, numbers, self.eps)


class GlobalBatchNorm1d(_OverAll, nn.BatchNorm1d):
    pass


class GlobalBatchNorm2d(_OverAll, nn.BatchNorm2d):
    pass


class GlobalPerViewBatchNorm1d(GlobalBatchNorm1d):
    views = 2


class GlobalPerViewBatchNorm2d(GlobalBatchNorm2d):
    views = 2


GLOBAL = {
    nn.BatchNorm1d: GlobalBatchNorm1d,
    nn.BatchNorm2d: GlobalBatchNorm2d,
    PerViewBatchNorm1d: GlobalPerViewBatchNorm1d,
    PerViewBatchNorm2d: GlobalPerViewBatchNorm2d,
}


def use_global_batchnorm(model: nn.Module) -> None:
    """Let each BatchNorm of `model` see the batch of all processes. Parameters and names stay."""
    for module in model.modules():
        module.__class__ = GLOBAL.get(type(module), type(module))


def statistics_of(views: Sequence[Tensor], *running: Tensor) -> Tensor:
    """Compute mean and variance of each channel over all processes: (V, 2, C), float64.

    views: V of (N, C, ...), as many photos in each process. running: statistics (C,) that give the
    type, and stay as they are. The sums come from each process's own mean and variance, so that a
    mean far from 0 costs no digits.
    """
    own = [s for view in views for s in torch.batch_norm_update_stats(view, *running, 0.0)]
    statistics = torch.stack(own).double().view(len(views), 2, -1)
    means, variances = statistics.unbind(1)
    variances.addcmul_(means, means)  # means of squares, which can be averaged
    sum_(statistics).div_(count())
    variances.addcmul_(means, means, value=-1)
    return statistics


class _Normalise(torch.autograd.Function):
    """BatchNorm of views that lie one after the other, each by given statistics of its channels.

    The statistics are those of the batch of all processes, of which x is a part: they move with x,
    and backward takes that into account.
    """

    @staticmethod
    def forward(
        ctx, x: Tensor, weight: Tensor, bias: Tensor,
        means: Tensor, variances: Tensor, numbers: int, eps: float,
    ) -> Tensor:  # fmt: skip
        """x: (V N, C, ...). weight, bias: (C,). means, variances: (V, C), each of `numbers`."""
        ctx.save_for_backward(x, weight, means, variances)
        ctx.numbers, ctx.eps = numbers, eps
        return join(
            F.batch_norm(view, mean, variance, weight, bias, eps=eps)
            for view, mean, variance in zip(x.chunk(len(means)), means, variances, strict=True)
        )

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, means, variances = ctx.saved_tensors
        views = list(zip(x.chunk(len(means)), means, variances, strict=True))
        # with fixed statistics: the gradients of x, and of weight and bias by this process's part
        fixed = [
            torch.ops.aten.native_batch_norm_backward(
                part, view, weight, mean, variance, None, None, False, ctx.eps, [True, True, True]
            )
            for (view, mean, variance), part in zip(views, gradient.chunk(len(means)), strict=True)
        ]
        sums = torch.stack([s for _, *both in fixed for s in both]).view(len(means), 2, -1)
        of_weight, of_bias = sums.sum(0)
        # what the moving statistics add to the gradient of x is x, normalised, scaled and shifted
        factor = weight * (variances + ctx.eps).rsqrt_() / -ctx.numbers  # (V, C)
        of_x = join(
            of_part.add_(F.batch_norm(view, mean, variance, scale, shift, eps=ctx.eps))
            for (view, mean, variance), (of_part, *_), (scale, shift) in zip(
                views, fixed, sum_(sums).mul_(factor[:, None]), strict=True
            )
        )
        return of_x, of_weight, of_bias, None, None, None, None


def join(views: Iterable[Tensor]) -> Tensor:
    """Put views one after the other; a single one stays as it is."""
    views = list(views)
    return views[0] if len(views) == 1 else torch.cat(views)
