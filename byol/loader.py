"""Batches of stored photos: which rows at which step, and their copy to the device."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from byol.image_ops import to_device
from byol.stored_array import StoredArray


@lru_cache(maxsize=2)
def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """The numbers 0..count-1 in the random order of one epoch: a function of the arguments."""
    return np.random.Generator(np.random.PCG64([seed, epoch])).permutation(count)


def positions_at(step: int, count: int, batch_size: int, seed: int) -> np.ndarray:
    """Which of `count` images make up step `step`. Each epoch drops its incomplete batch."""
    epoch, batch = divmod(step, count // batch_size)
    return epoch_order(count, seed, epoch)[batch * batch_size : (batch + 1) * batch_size]


def gather(images: StoredArray | Tensor, rows: np.ndarray, device: torch.device) -> Tensor:
    """Stored photos (uint8, N x 3 x S x S) of `rows`, as a tensor on the device.

    `images` are in a file or a tensor on the device. For CUDA what is copied goes through pinned
    memory, and nothing waits.
    """
    if isinstance(images, Tensor):
        return images.index_select(0, to_device(rows, device))
    pinned = device.type == "cuda"
    batch = torch.empty((len(rows), *images.shape[1:]), dtype=torch.uint8, pin_memory=pinned)
    images.read(rows, batch.numpy())
    return batch.to(device, non_blocking=True)


def put_on_device(images: StoredArray, device: torch.device) -> Tensor:
    """All stored photos as one tensor on the device, for which there must be room."""
    stored = torch.empty(images.shape, dtype=torch.uint8, device=device)
    for at in range(0, len(images), 1024):
        part = slice(at, at + 1024)
        stored[part] = torch.from_numpy(images[part])
    return stored


def batches(
    images: StoredArray | Tensor,
    rows: np.ndarray,
    batch_size: int,
    seed: int,
    steps: range,
    device: torch.device,
) -> Iterator[tuple[int, np.ndarray, Tensor]]:
    """(step, rows, photos) for each step, with the next batch read while this one is used.

    On CUDA the reader copies in a stream of its own. At most two steps are queued on the device:
    the host waits for the last but one, so the device always has work.
    """
    cuda = device.type == "cuda"
    copying = torch.cuda.Stream(device) if cuda else None
    on_start = {"initializer": torch.cuda.set_stream, "initargs": (copying,)} if cuda else {}

    def read(step: int) -> tuple[np.ndarray, Tensor, torch.cuda.Event | None]:
        """The rows and the batch of `step`, and the event of its arrival."""
        chosen = rows[positions_at(step, len(rows), batch_size, seed)]
        batch = gather(images, chosen, device)
        return chosen, batch, copying.record_event() if cuda else None

    with ThreadPoolExecutor(1, **on_start) as reader:
        following, earlier_end = None, None
        for step in steps:
            current = following or reader.submit(read, step)
            following = reader.submit(read, step + 1) if step + 1 in steps else None
            chosen, batch, arrival = current.result()
            if cuda:
                training = torch.cuda.current_stream(device)
                training.wait_event(arrival)
                batch.record_stream(training)
                if earlier_end:
                    earlier_end.synchronize()
                earlier_end = training.record_event(torch.cuda.Event(blocking=True))
            yield step, chosen, batch
