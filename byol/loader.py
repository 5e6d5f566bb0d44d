"""Batches of stored photos: which rows at which step, and their copy to the device."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


@lru_cache(maxsize=2)
def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """The numbers 0..count-1 in the random order of one epoch: a function of the arguments."""
    return np.random.Generator(np.random.PCG64([seed, epoch])).permutation(count)


def positions_at(step: int, count: int, batch_size: int, seed: int) -> np.ndarray:
    """Which of `count` images make up step `step`. Each epoch drops its incomplete batch."""
    epoch, batch = divmod(step, count // batch_size)
    return epoch_order(count, seed, epoch)[batch * batch_size : (batch + 1) * batch_size]


def gather(images: np.ndarray, rows: np.ndarray, device: torch.device) -> Tensor:
    """Stored photos (uint8, N x 3 x S x S) of `rows`, as a tensor on the device.

    For CUDA the copy goes through pinned memory and does not wait.
    """
    batch = torch.from_numpy(images[rows])
    if device.type == "cuda":
        return batch.pin_memory().to(device, non_blocking=True)
    return batch


def batches(
    images: np.ndarray,
    rows: np.ndarray,
    batch_size: int,
    seed: int,
    steps: range,
    device: torch.device,
) -> Iterator[tuple[int, np.ndarray, Tensor]]:
    """(step, rows, photos) for each step, with the next batch read while this one is used."""

    def read(step: int) -> tuple[int, np.ndarray, Tensor]:
        chosen = rows[positions_at(step, len(rows), batch_size, seed)]
        return step, chosen, gather(images, chosen, device)

    with ThreadPoolExecutor(1) as reader:
        following = None
        for step in steps:
            current = following or reader.submit(read, step)
            following = reader.submit(read, step + 1) if step + 1 in steps else None
            yield current.result()
