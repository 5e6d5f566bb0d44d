"""Batches of stored photos: their copy to the device, ahead of use."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from byol.hardware.device import free_bytes, to_device
from byol.hardware.distributed import share
from byol.schedules import Schedule

ROOM_FOR_PHOTOS = 0.5  # of a GPU's free memory: `--photos-in auto` puts them there up to this share


@dataclass
class Batch:
    """Stored photos on the device, and what the views need to know of them.

    images: uint8 (B, 3, H, W). sizes: (B, 2), heights and widths. rows: (B,), rows of `Photos`.
    """

    images: Tensor
    sizes: np.ndarray
    rows: np.ndarray

    def split(self, count: int) -> Iterator[Batch]:
        """Cut the batch into `count` micro-batches of the same size."""
        size = len(self.rows) // count
        for at in range(0, len(self.rows), size):
            cut = slice(at, at + size)
            yield Batch(self.images[cut], self.sizes[cut], self.rows[cut])


class Batches:
    """Reads the batch of each step from the packed photos, one step ahead of its use."""

    def __init__(
        self,
        photos,
        rows: np.ndarray,
        schedule: Schedule,
        photos_in: str,
        device: torch.device,
        accumulate: int = 1,
    ):
        """photos_in: "host", "device" or "auto", which is a GPU if it has room.

        accumulate: the micro-batches of a batch. Of several processes each reads its share of them.
        """
        self.photos, self.rows, self.schedule, self.device = photos, rows, schedule, device
        self.accumulate = accumulate
        self.images = photos.images
        if photos_in == "device" or (photos_in == "auto" and has_room(photos.images, device)):
            self.images = put_on_device(photos.images, device)

    @property
    def on_gpu(self) -> bool:
        return isinstance(self.images, Tensor) and self.images.is_cuda

    def read(self, step: int) -> Batch:
        rows = self.rows[share(self.schedule.positions(step), self.accumulate)]
        return Batch(gather(self.images, rows, self.device), self.photos.sizes[rows], rows)

    def from_step(self, first: int) -> Iterator[tuple[int, Batch]]:
        """Yield (step, batch) for each step, while a thread reads the next batch.

        On CUDA the reader copies in a stream of its own. At most two steps are queued on the
        device: the host waits for the last but one, so the device always has work.
        """
        cuda = self.device.type == "cuda"
        copying = torch.cuda.Stream(self.device) if cuda else None
        on_start = {"initializer": torch.cuda.set_stream, "initargs": (copying,)} if cuda else {}
        steps = range(first, self.schedule.total_steps)

        def read(step: int) -> tuple[Batch, torch.cuda.Event | None]:
            """Read the batch of `step`; the event is that of its arrival."""
            return self.read(step), copying.record_event() if cuda else None

        with ThreadPoolExecutor(1, **on_start) as reader:
            following, earlier_end = None, None
            for step in steps:
                current = following or reader.submit(read, step)
                following = reader.submit(read, step + 1) if step + 1 in steps else None
                batch, arrival = current.result()
                if cuda:
                    training = torch.cuda.current_stream(self.device)
                    training.wait_event(arrival)
                    batch.images.record_stream(training)
                    if earlier_end:
                        earlier_end.synchronize()
                    earlier_end = training.record_event(torch.cuda.Event(blocking=True))
                yield step, batch


def gather(images, rows: np.ndarray, device: torch.device) -> Tensor:
    """Copy the stored photos of `rows` to the device: uint8 (N, 3, H, W).

    `images` are a tensor on the device, or a `StoredArray` in a file. For CUDA the copy goes
    through pinned memory, and nothing waits.
    """
    if isinstance(images, Tensor):
        return images.index_select(0, to_device(rows, device))
    pinned = device.type == "cuda"
    batch = torch.empty((len(rows), *images.shape[1:]), dtype=torch.uint8, pin_memory=pinned)
    images.read(rows, batch.numpy())
    return batch.to(device, non_blocking=pinned)  # on MPS a copy that nobody waits for goes wrong


def has_room(images, device: torch.device) -> bool:
    """Tell whether all stored photos may go to the device: a GPU with more than enough room."""
    return device.type == "cuda" and images.nbytes < ROOM_FOR_PHOTOS * free_bytes(device)


def put_on_device(images, device: torch.device) -> Tensor:
    """Copy all stored photos to the device, as one tensor."""
    stored = torch.empty(images.shape, dtype=torch.uint8, device=device)
    for at in range(0, len(images), 1024):
        rows = slice(at, at + 1024)
        stored[rows] = torch.from_numpy(images[rows])
    return stored
