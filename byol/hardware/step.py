"""Forward and backward of a step, by the fastest way that the device has; the scale of the loss."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from byol.hardware import distributed
from byol.hardware.cuda_graph import record
from byol.hardware.global_batchnorm import use_global_batchnorm
from byol.hardware.one_pass import MOST_PIXELS, take_one_pass
from byol.hardware.small_maps import use_patches
from byol.method import BYOL


def prepare(network: nn.Module, device: torch.device) -> nn.Module:
    """Move a network to the device in its fastest form: the same weights and the same sums."""
    if device.type == "cpu":
        use_patches(network)
    if device.type == "mps":  # channels_last is known for wrong gradients of pooling there
        return network.to(device)
    return network.to(device, memory_format=torch.channels_last)


class Backward:
    """`BYOL.backward` by the fastest way: plain, in one pass, or as a recorded CUDA graph."""

    def __init__(self, model: BYOL, config, amp: torch.dtype | None, scaler: LossScaler):
        """config: a `PretrainConfig`. The model is on its device; it stays as it was."""
        device = next(model.parameters()).device
        weights = torch.tensor(config.output_weights, device=device) / config.accumulate
        processes = distributed.count()
        side, count = config.view_side, config.micro_batch // processes
        self.way = "a pass for each view"
        if device.type == "cpu" and count * side**2 <= MOST_PIXELS:
            take_one_pass(model)
            self.way = "both views in one pass"
        if processes > 1 and config.sync_batchnorm:
            use_global_batchnorm(model)
        self.run = functools.partial(model.backward, weights=weights, amp=amp, scale=scaler.scale)
        # a recording sets the gradients, so it cannot add up those of several micro-batches
        wanted = device.type == "cuda" and config.cuda_graph and config.accumulate == 1
        if wanted and processes > 1:  # it would have to hold the messages between them
            self.way += ", not recorded since there are several processes"
        elif wanted:
            recorded = record(model, (count, 3, side, side), weights, amp, scaler.scale)
            if recorded:
                self.run, self.way = recorded, "step recorded as a CUDA graph"

    def __call__(self, view1: Tensor, view2: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the gradient of two views (N, 3, S, S). Returns (losses, spreads), (P,) each."""
        return self.run(view1, view2)

    def __str__(self) -> str:
        return self.way


class LossScaler:
    """A `GradScaler` that counts the steps that it skips; without float16 it does nothing.

    It asks nothing of the device, so nothing waits.
    """

    def __init__(self, device: torch.device, amp: torch.dtype | None):
        self.enabled = amp == torch.float16
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.enabled)
        self.one = torch.ones((), device=device)
        self.skipped = torch.zeros((), device=device)  # steps, since the start of the run

    def scale(self, loss: Tensor) -> Tensor:
        return self.scaler.scale(loss)

    def step(self, optimizer: Optimizer) -> None:
        """Take the optimizer's step, unless a gradient overflowed, and adapt the scale."""
        before = self.scaler.scale(self.one)  # 1 without float16
        self.scaler.step(optimizer)
        self.scaler.update()
        if self.enabled:  # it lowers the scale if it skipped the step
            self.skipped += self.scaler.scale(self.one) < before

    def numbers(self) -> Tensor:
        """(2,): the count of skipped steps, and the scale."""
        return torch.stack([self.skipped, self.scaler.scale(self.one)])

    def state_dict(self) -> dict:
        return {**self.scaler.state_dict(), "skipped": self.skipped} if self.enabled else {}

    def load_state_dict(self, state: dict) -> None:
        """Go on from a state; an empty one is of a run that was not in float16 until now."""
        if state and self.enabled:
            self.skipped += state["skipped"]
            self.scaler.load_state_dict({k: v for k, v in state.items() if k != "skipped"})
