"""Optimizers. Rates and decays belong to an optimizer: LARS's rate makes Adam collapse."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import Optimizer

# name: (base learning rate at batch 256, weight decay)
DEFAULTS = {
    "lars": (2.0, 1e-6),  # the authors' preset for small data at batch 256 (Imagenette)
    "sgd": (0.06, 2e-3),  # the best on Cats-vs-Dogs at 32 px, batch 128 (results/README.md)
    "adamw": (1e-3, 1e-2),
}


class LARS(Optimizer):
    """Layer-wise adaptive rate scaling with momentum (arXiv 1708.03888), as BYOL uses it.

    For a group with `adapt`: g = grad + weight_decay * p, scaled by eta |p| / |g| if both norms
    are positive. For a group without (biases, BatchNorm): g = grad, no decay.
    Then m = momentum * m + g and p = p - lr * m.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        eta: float = 1e-3,
    ):
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "eta": eta}
        super().__init__(params, {**defaults, "adapt": True})

    @torch.no_grad()
    def step(self, closure=None):
        """Take one step. Reads no value back from the device."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            grads = [p.grad for p in params]
            if group["adapt"]:
                grads = torch._foreach_add(grads, params, alpha=group["weight_decay"])
                weight_norms = torch.stack(torch._foreach_norm(params))
                grad_norms = torch.stack(torch._foreach_norm(grads))
                ratio = group["eta"] * weight_norms / grad_norms
                usable = (weight_norms > 0) & (grad_norms > 0)
                ratio = torch.where(usable, ratio, torch.ones_like(ratio))
                torch._foreach_mul_(grads, list(ratio.unbind()))
            for p in params:
                if not self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
            buffers = [self.state[p]["momentum"] for p in params]
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_add_(buffers, grads)
            torch._foreach_add_(params, buffers, alpha=-group["lr"])


def parameter_groups(model: nn.Module, encoder: nn.Module | None = None) -> list[dict]:
    """Split parameters: matrices and filters; biases and BatchNorm, which get no weight decay.

    With `encoder`, a part of the model, its parameters are groups of their own, marked for
    `set_lr`.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    if encoder is None:
        return _by_decay(trained)
    own = set(encoder.parameters())
    marked = [{**g, "of_encoder": True} for g in _by_decay([p for p in trained if p in own])]
    return _by_decay([p for p in trained if p not in own]) + marked


def _by_decay(trained: list[nn.Parameter]) -> list[dict]:
    return [
        {"params": [p for p in trained if p.ndim > 1], "adapt": True},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0, "adapt": False},
    ]


def build_optimizer(
    name: str, groups: list[dict], weight_decay: float, scaled: bool = False
) -> Optimizer:
    """Build `lars`, `sgd` (momentum 0.9) or `adamw`; the training loop sets the rate at each step.

    `scaled`: a gradient scaler is in use. Fused SGD then is not used: if the first step overflows,
    it keeps a momentum that was never written.
    """
    if name == "lars":
        return LARS(groups, lr=0.0, weight_decay=weight_decay)
    if name == "sgd":
        options = {"lr": 0.0, "momentum": 0.9, "weight_decay": weight_decay}
        return torch.optim.SGD(groups, **options, fused=None if scaled else True)
    return torch.optim.AdamW(groups, lr=0.0, weight_decay=weight_decay, fused=True)


def set_lr(optimizer: Optimizer, lr: float, encoder_scale: float = 1.0) -> None:
    """Give every group the rate `lr` times its `lr_scale` (1 if it has none).

    The groups that `parameter_groups` marked as the encoder's get `encoder_scale` times that.
    """
    for group in optimizer.param_groups:
        scale = encoder_scale if group.get("of_encoder") else 1.0
        group["lr"] = lr * group.get("lr_scale", 1.0) * scale
