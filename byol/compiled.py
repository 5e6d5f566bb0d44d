"""torch.compile for the encoders, with a way back. Benchmarks time it; no run uses it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from byol.errors import first_line
from byol.learner import BYOL, left_as_it_was


def compile_encoders(
    model: BYOL, batch: int, image_sizes: Sequence[int], amp: torch.dtype | None
) -> str | None:
    """Have both encoders compiled for `batch` images; None, or in a line why they stay plain.

    The compiler works at the first call with each of `image_sizes`, which is made here, on noise.
    It leaves the model as it was. Compiling takes a minute or so for each.
    """
    encoders = model.encoder, model.target_encoder
    device = next(model.parameters()).device
    for encoder in encoders:
        encoder.outputs = torch.compile(encoder.outputs, dynamic=False)
    weights = torch.ones(len(model.outputs), device=device)
    try:
        for size in image_sizes:
            noise = torch.randn(2, batch, size, size, 3, device=device).movedim(-1, 2)
            with left_as_it_was(model):
                model.backward(*noise, weights, amp)
    except Exception as error:  # a compiler fails in many ways
        for encoder in encoders:
            del encoder.outputs  # the plain method is still there
        return first_line(error)
    return None
