"""Convolutions on very small maps as one matrix product, for the CPU.

At 64 px the last stage of a ResNet-18 works on maps of 2x2. A convolution there is bound by its
weights: oneDNN spends half of a training step there, most of it in reordering them. The same sums
written as a product of patches and weights take a fraction of that.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_SIDE = 5  # of the output map; above it the convolution is the faster one


@contextmanager
def up_to(side: int) -> Iterator[None]:
    """Use products for maps up to `side` x `side`, in place of MAX_SIDE; 0 is for none."""
    global MAX_SIDE
    before, MAX_SIDE = MAX_SIDE, side
    try:
        yield
    finally:
        MAX_SIDE = before


class PatchConv2d(nn.Conv2d):
    """`nn.Conv2d` without bias, groups or dilation; on the CPU small outputs go by patches.

    The weights, their names and the result are those of `nn.Conv2d`, up to rounding.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Convolve: (N, C, H, W) -> (N, O, H', W')."""
        pad, stride, kernel = self.padding[0], self.stride[0], self.kernel_size[0]
        height, width = ((s + 2 * pad - kernel) // stride + 1 for s in x.shape[2:])
        small = x.device.type == "cpu" and max(height, width) <= MAX_SIDE
        if not small or torch.compiler.is_compiling():  # compiling all the slices takes too long
            return super().forward(x)
        rows = _offsets(kernel, pad, stride, x.shape[2], height)
        columns = _offsets(kernel, pad, stride, x.shape[3], width)
        x = F.pad(x.permute(0, 2, 3, 1), (0, 0, pad, pad, pad, pad))  # (N, H + 2p, W + 2p, C)
        spans = [
            (
                slice(i, i + (height - 1) * stride + 1, stride),
                slice(j, j + (width - 1) * stride + 1, stride),
            )
            for i in rows
            for j in columns
        ]
        patches = _Patches.apply(x, spans)  # (N, H', W', offsets * C)
        weight = self.weight.permute(0, 2, 3, 1)  # (O, k, k, C), contiguous in channels_last memory
        if len(rows) < kernel or len(columns) < kernel:  # a slice costs a copy of the gradient
            weight = weight[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        weight = weight.reshape(self.out_channels, -1)  # (O, offsets * C)
        return F.linear(patches, weight).permute(0, 3, 1, 2)  # channels_last in memory


class _Patches(torch.autograd.Function):
    """Join x (N, H, W, C) at each of `spans`, side by side: (N, H', W', spans * C).

    Slicing and joining would do; but then the gradient is as many maps of zeros, filled in part and
    added up. This adds each part to one map.
    """

    @staticmethod
    def forward(ctx, x: Tensor, spans: list[tuple[slice, slice]]) -> Tensor:
        ctx.spans, ctx.shape = spans, x.shape
        return torch.cat([x[:, i, j] for i, j in spans], dim=3)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.new_zeros(ctx.shape)
        for offset, (i, j) in zip(gradient.chunk(len(ctx.spans), dim=3), ctx.spans, strict=True):
            total[:, i, j] += offset
        return total, None


def _offsets(kernel: int, pad: int, stride: int, size: int, out: int) -> list[int]:
    """Offsets of the kernel that meet the image anywhere; the others see padding alone."""
    return [k for k in range(kernel) if any(0 <= o * stride + k - pad < size for o in range(out))]


def use_patches(model: nn.Module) -> None:
    """Make each square convolution without bias, groups or dilation a `PatchConv2d`."""
    for module in model.modules():
        if (
            type(module) is nn.Conv2d
            and module.bias is None
            and module.groups == 1
            and module.dilation == (1, 1)
            and module.kernel_size[0] == module.kernel_size[1]
            and module.padding_mode == "zeros"
        ):
            module.__class__ = PatchConv2d
