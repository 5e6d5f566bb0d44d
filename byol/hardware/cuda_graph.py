"""The networks' part of a step as a CUDA graph: recorded once, then replayed by a single call.

A step is about a thousand small operations, which the host hands to the card one at a time. If that
takes longer than the card needs for them, as for small images on a fast card, the card waits.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from byol.errors import UserError, first_line, gpu_is_full
from byol.hardware.device import free_bytes

WARM_UP = 3  # plain passes before the recording: libraries choose and set up what they use


def record(
    model: nn.Module,
    shape: tuple[int, int, int, int],
    weights: Tensor,
    amp: torch.dtype | None,
    scale: Callable[[Tensor], Tensor],
) -> RecordedBackward | None:
    """Record the step of a `BYOL` for views of `shape`; without room: None, and a line on stderr.

    Raises `UserError` if a step cannot be recorded at all.
    """
    before = free_bytes(weights.device)
    recorded = None
    try:
        recorded = RecordedBackward(model, shape, weights, amp, scale)
    except RuntimeError as error:
        cause = error.__context__ or error  # of a recording that broke off
        if not (gpu_is_full(error) or gpu_is_full(cause)):
            raise UserError(
                f"--cuda-graph: a step cannot be recorded ({first_line(cause)}); "
                "give --no-cuda-graph"
            ) from None
    if recorded and leaves_room(before, free_bytes(weights.device)):
        return recorded
    del recorded
    print("no room on the GPU to record a step, so --cuda-graph is left out", file=sys.stderr)
    return None


def leaves_room(before: int, after: int) -> bool:
    """Tell whether a recording leaves enough memory: `before` and `after` it so much was free.

    A recording holds the memory of one step. The optimizer and the making of the views need about
    as much again.
    """
    return after > before - after


@contextmanager
def undo_side_effects(model: nn.Module) -> Iterator[None]:
    """Restore the buffers of a model after a trial step, and drop its gradients."""
    before = [buffer.clone() for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, kept in zip(model.buffers(), before, strict=True):
                buffer.copy_(kept)
        model.zero_grad(set_to_none=True)


class RecordedBackward:
    """A recorded `BYOL.backward` for two views of `shape` (N, 3, H, W).

    A call sets the gradients of the parameters instead of adding to them. The gradients and the
    results lie in memory that the next call writes again. Recording leaves the model as it was.
    """

    def __init__(
        self,
        model: nn.Module,
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
        with undo_side_effects(model):
            stream.wait_stream(usual)
            try:
                with torch.cuda.stream(stream):
                    for _ in range(WARM_UP):
                        model.backward(*self.views, weights, amp, scale)
                        model.zero_grad(set_to_none=True)
                with torch.cuda.graph(self.graph, stream=stream):
                    self.results = model.backward(*self.views, weights, amp, scale)
            finally:
                torch.cuda.set_stream(usual)  # a recording that breaks off leaves its stream
                usual.wait_stream(stream)
            self.gradients = [p.grad for p in self.parameters]

    def __call__(self, view1: Tensor, view2: Tensor) -> tuple[Tensor, Tensor]:
        """Copy the views, replay the step: (losses, spreads), each (P,), as `BYOL.backward`."""
        self.views[0].copy_(view1)
        self.views[1].copy_(view2)
        self.graph.replay()
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient
        return self.results
