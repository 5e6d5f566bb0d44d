"""How much memory a pretraining step will need, before it runs."""

from __future__ import annotations

import torch
from torch import nn

from byol.device import autocast

_OPTIMIZER_COPIES = {"lars": 1, "sgd": 1, "adamw": 2}


def estimate_step_bytes(
    model: nn.Module, image_size: int, batch: int, optimizer: str, amp: torch.dtype | None
) -> int:
    """Bytes of weights, gradients, optimizer state, views and saved activations of one step.

    A term of `model`'s loss, on the CPU, is computed for two images and for four; what autograd
    saves for the two more is scaled to `batch`. The BatchNorm buffers are left as they were.
    """
    buffers = [b.clone() for b in model.buffers()]
    two, four = (_saved_bytes(model, image_size, count, amp) for count in (2, 4))
    for buffer, before in zip(model.buffers(), buffers, strict=True):
        buffer.copy_(before)

    weights = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    per_weight = 4 + (0 if amp is None else 2)  # autocast keeps a 16-bit copy
    state = weights * per_weight + trained * 4 * (1 + _OPTIMIZER_COPIES[optimizer])
    activations = (four - two) * batch // 2
    views = 2 * batch * 3 * image_size**2 * 4
    return state + activations + views


def _saved_bytes(model: nn.Module, image_size: int, count: int, amp: torch.dtype | None) -> int:
    """Bytes that autograd keeps for the backward pass of `count` images."""
    saved: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    views = torch.zeros(2, count, 3, image_size, image_size)
    precision = autocast(torch.device("cpu"), amp and torch.bfloat16)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), precision:
        term = model.terms(*views)[0]  # training sends one back before it computes the next
        losses, _ = model.term(*term)  # their graph keeps every noted address in use
    del losses
    return sum(saved.values())
