"""BatchNorm over the batch of all processes, each view on its own.

PyTorch's `SyncBatchNorm` does this on GPUs alone, and for one view at a time. Here sum, sum of
squares and count of each channel are added up over the processes, and in backward two more sums.
The rest is PyTorch's own BatchNorm with given statistics.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from byol.hardware.distributed import sum_
from byol.hardware.one_pass import PerViewBatchNorm1d, PerViewBatchNorm2d


class _OverAll:
    views = 1  # that lie one after the other in a batch

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (V N, C, ...) by the batch of all processes; in evaluation mode as ever."""
        if not self.training:
            return super().forward(x)
        views = x.detach().chunk(self.views)
        sums = sum_(torch.stack([sums_of(view, self.weight.dtype) for view in views]))
        sums, squares, counts = sums.split([x.shape[1], x.shape[1], 1], dim=1)
        means = sums / counts  # (V, C)
        variances = squares / counts - means.square()
        with torch.no_grad():  # as BatchNorm does it, one view after the other
            for mean, variance in zip(means, variances * counts / (counts - 1), strict=True):
                self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
                self.running_var.lerp_(variance.to(self.running_var), self.momentum)
                self.num_batches_tracked.add_(1)
        statistics = (numbers.to(self.weight) for numbers in (means, variances, counts))
        return _Normalise.apply(x, self.weight, self.bias, *statistics, self.eps)


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


def sums_of(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Add up x (N, C, ...) by channel: sums, sums of squares, count: float64 (2 C + 1,).

    They come from mean and variance in `dtype`, so that a mean far from 0 costs no digits.
    """
    unused = x.new_zeros((2, x.shape[1]), dtype=dtype)  # running statistics: they give the type
    mean, variance = (s.double() for s in torch.batch_norm_update_stats(x, *unused, 0.0))
    count = mean.new_full((1,), x.numel() // x.shape[1])
    return torch.cat([mean * count, (variance + mean.square()) * count, count])


class _Normalise(torch.autograd.Function):
    """BatchNorm of views that lie one after the other, each by given statistics of its channels.

    The statistics are those of the batch of all processes, of which x is a part: they move with x,
    and backward takes that into account.
    """

    @staticmethod
    def forward(
        ctx, x: Tensor, weight: Tensor, bias: Tensor,
        means: Tensor, variances: Tensor, counts: Tensor, eps: float,
    ) -> Tensor:  # fmt: skip
        """x: (V N, C, ...). weight, bias: (C,). means, variances: (V, C). counts: (V, 1)."""
        ctx.save_for_backward(x, weight, means, variances, counts)
        ctx.eps = eps
        return join(
            F.batch_norm(view, mean, variance, weight, bias, eps=eps)
            for view, mean, variance in zip(x.chunk(len(means)), means, variances, strict=True)
        )

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, means, variances, counts = ctx.saved_tensors
        views = list(zip(x.chunk(len(means)), means, variances, strict=True))
        # with fixed statistics: the gradients of x, and of weight and bias by this process's part
        fixed = [
            torch.ops.aten.native_batch_norm_backward(
                part, view, weight, mean, variance, None, None, False, ctx.eps, [True, True, True]
            )
            for (view, mean, variance), part in zip(views, gradient.chunk(len(means)), strict=True)
        ]
        of_weight, of_bias = (torch.stack([grads[i] for grads in fixed]) for i in (1, 2))  # (V, C)
        # what the moving statistics add to the gradient of x is x, normalised, scaled and shifted
        factor = -weight * (variances + ctx.eps).rsqrt() / counts
        scales, shifts = (factor * sum_(torch.stack([of_weight, of_bias]))).unbind()
        of_x = join(
            grads[0].add_(F.batch_norm(view, mean, variance, scale, shift, eps=ctx.eps))
            for (view, mean, variance), grads, scale, shift in zip(
                views, fixed, scales, shifts, strict=True
            )
        )
        return of_x, of_weight.sum(0), of_bias.sum(0), None, None, None, None


def join(views: Iterable[Tensor]) -> Tensor:
    """Put views one after the other; a single one stays as it is."""
    views = list(views)
    return views[0] if len(views) == 1 else torch.cat(views)
