"""Learning rate and tau as pure functions of the optimizer step (paper section 3.3)."""

from __future__ import annotations

import math


def lr_at(step: int, total_steps: int, warmup_steps: int, peak: float) -> float:
    """Linear from 0 to `peak` over `warmup_steps`, then half a cosine down to 0."""
    if step < warmup_steps:
        return peak * step / warmup_steps
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def tau_at(step: int, total_steps: int, tau0: float) -> float:
    """1 - (1 - tau0) (cos(pi step / total) + 1) / 2: from tau0 up to 1."""
    return 1 - (1 - tau0) * (math.cos(math.pi * min(1.0, step / total_steps)) + 1) / 2
