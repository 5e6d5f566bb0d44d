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

    `model(view1, view2)` runs once on the CPU with two images; what autograd saves is counted
    and scaled to `batch` images. The model's BatchNorm buffers are left as they were.
    """
    saved: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    buffers = [b.clone() for b in model.buffers()]
    views = torch.zeros(2, 2, 3, image_size, image_size)
    # kept alive until counted, so that no address is used twice
    with (
        torch.autograd.graph.saved_tensors_hooks(count, lambda t: t),
        autocast(torch.device("cpu"), amp and torch.bfloat16),
    ):
        loss, _ = model(*views)
    del loss
    for buffer, before in zip(model.buffers(), buffers, strict=True):
        buffer.copy_(before)

    all_weights = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    per_weight = 4 + (0 if amp is None else 2)  # autocast keeps a 16-bit copy
    state = all_weights * per_weight + trained * 4 * (1 + _OPTIMIZER_COPIES[optimizer])
    # saved activations of two images include 16-bit copies of weights: taken off again
    copies = 0 if amp is None else trained * 2
    activations = max(0, sum(saved.values()) - copies) * batch // 2
    pixels = batch * 3 * image_size**2 * 4 * 2
    return state + activations + pixels
