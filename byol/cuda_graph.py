"""The networks' part of a step as a CUDA graph: recorded once, then replayed by a single call.

A step is about a thousand small operations, which the host hands to the card one at a time. Where
that takes longer than the card needs for them, as for small images on a fast card, the card waits.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from byol.config import PretrainConfig
from byol.learner import BYOL, left_as_it_was

WARM_UP = 3  # plain passes before the recording: libraries choose and set up what they use


def may_record(config: PretrainConfig, step: int, free: int) -> bool:
    """Whether to record a step that takes `step` bytes, where `free` are left on the card.

    The recording keeps them for itself, and views are made beside it. A recorded step sets the
    gradients, so a batch in pieces cannot add to them.
    """
    wanted = config.cuda_graph and not config.compile and config.accumulate == 1
    return wanted and 2 * step < free


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
        stream = torch.cuda.Stream(weights.device)
        stream.wait_stream(torch.cuda.current_stream(weights.device))
        with left_as_it_was(model):
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP):
                    model.backward(*self.views, weights, amp, scale)
                    model.zero_grad(set_to_none=True)
            with torch.cuda.graph(self.graph, stream=stream):
                self.results = model.backward(*self.views, weights, amp, scale)
            self.gradients = [p.grad for p in self.parameters]
        torch.cuda.current_stream(weights.device).wait_stream(stream)

    def __call__(self, view1: Tensor, view2: Tensor) -> tuple[Tensor, Tensor]:
        """(losses, spreads), each (P,): what `BYOL.backward` returns."""
        self.views[0].copy_(view1)
        self.views[1].copy_(view2)
        self.graph.replay()
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient
        return self.results
