"""The networks' part of a step as a CUDA graph: recorded once, then replayed by a single call.

A step is about a thousand small operations, which the host hands to the card one at a time. Where
that takes longer than the card needs for them, as for small images on a fast card, the card waits.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import Tensor

from byol.errors import UserError, first_line, gpu_is_full
from byol.learner import BYOL, left_as_it_was
from byol.memory import free_bytes

WARM_UP = 3  # plain passes before the recording: libraries choose and set up what they use


def record(
    model: BYOL,
    batch: int,
    size: int,
    weights: Tensor,
    amp: torch.dtype | None,
    scale: Callable[[Tensor], Tensor],
) -> RecordedBackward | None:
    """A recording for views of that size; None, and a line on stderr, where the card is too full.

    It keeps for itself what it takes, and must leave as much free: views are made beside it. Raises
    `UserError` where a step cannot be recorded at all.
    """
    device = weights.device
    torch.cuda.empty_cache()
    free, before = free_bytes(device), torch.cuda.memory_reserved(device)
    try:
        recorded = RecordedBackward(model, (batch, 3, size, size), weights, amp, scale)
    except RuntimeError as error:
        cause = error.__context__ or error  # of a recording that broke off
        if not (gpu_is_full(error) or gpu_is_full(cause)):
            raise UserError(
                f"--cuda-graph: a step cannot be recorded ({first_line(cause)}); "
                "give --no-cuda-graph"
            ) from None
    else:
        torch.cuda.empty_cache()  # of what the plain passes took
        taken = torch.cuda.memory_reserved(device) - before
        if 2 * taken <= free:
            return recorded
        del recorded
        torch.cuda.empty_cache()
    print("no room on the GPU to record a step, so --cuda-graph is left out", file=sys.stderr)
    return None


class RecordedBackward:
    """`BYOL.backward` for two views of `shape` (N, 3, H, W), with the other arguments as there.

    A call sets the parameters' gradients instead of adding to them. They, and the results returned,
    lie in memory that the next call writes again. Recording leaves the model as it was.
    """

    def __init__(
        self,
        model: BYOL,
        shape: tuple[int, int, int, int],
        weights: Tensor,
        amp: torch.dtype | None,
        scale: Callable[[Tensor], Tensor],
    ):
        count, channels, height, width = shape
        noise = torch.randn(2, count, height, width, channels, device=weights.device)
        self.views = noise.movedim(-1, 2)  # each is in channels_last memory
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.graph = torch.cuda.CUDAGraph()
        self.weights = weights  # the graph reads them
        usual = torch.cuda.current_stream(weights.device)
        stream = torch.cuda.Stream(weights.device)
        with left_as_it_was(model):
            stream.wait_stream(usual)
            try:
                with torch.cuda.stream(stream):
                    for _ in range(WARM_UP):
                        model.backward(*self.views, weights, amp, scale)
                        model.zero_grad(set_to_none=True)
                with torch.cuda.graph(self.graph, stream=stream):
                    self.results = model.backward(*self.views, weights, amp, scale)
            finally:
                torch.cuda.set_stream(usual)  # a recording that breaks off leaves its own
                usual.wait_stream(stream)
            self.gradients = [p.grad for p in self.parameters]

    def __call__(self, view1: Tensor, view2: Tensor) -> tuple[Tensor, Tensor]:
        """(losses, spreads), each (P,): what `BYOL.backward` returns."""
        self.views[0].copy_(view1)
        self.views[1].copy_(view2)
        self.graph.replay()
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient
        return self.results
