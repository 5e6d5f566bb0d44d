"""What a CUDA device has free; how much memory a step will need, for benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from byol import small_maps
from byol.learner import BYOL, left_as_it_was

_OPTIMIZER_COPIES = {"lars": 1, "sgd": 1, "adamw": 2}


def estimate_step_bytes(
    model: BYOL,
    image_size: int,
    batch: int,
    optimizer: str,
    amp: torch.dtype | None,
    device: torch.device,
) -> int:
    """The most bytes that weights, optimizer state, views and all arrays of a step take at a time.

    What libraries take for themselves is not in it. The model, still on the CPU, stays as it was.
    """
    return step_bytes_by_batch(model, image_size, optimizer, amp, device)(batch)


def step_bytes_by_batch(
    model: BYOL,
    image_size: int,
    optimizer: str,
    amp: torch.dtype | None,
    device: torch.device,
) -> Callable[[int], int]:
    """`estimate_step_bytes` as a function of the batch.

    Forward and backward pass are run on the CPU, for two images and for four. After each operation
    the bytes in use grow linearly with the batch, so both runs tell what any batch will use there.
    """
    amp = amp and torch.bfloat16  # the CPU has no float16; it is as large
    plain = small_maps.up_to(0) if device.type == "cuda" else nullcontext()
    with plain:
        two, four = (_bytes_in_use(model, image_size, count, amp) for count in (2, 4))
    weights = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    states = 4 * (weights + _OPTIMIZER_COPIES[optimizer] * trained)

    def estimate(batch: int) -> int:
        views = 2 * batch * 3 * image_size**2 * 4
        arrays = max(a + (b - a) * (batch - 2) // 2 for a, b in zip(two, four, strict=True))
        return states + views + arrays

    return estimate


def free_bytes(device: torch.device) -> int:
    """What this process may still take on a CUDA device, its own limit included."""
    free, total = torch.cuda.mem_get_info(device)
    fraction = getattr(torch.cuda, "get_per_process_memory_fraction", lambda _: 1.0)  # new in 2.8
    used = torch.cuda.memory_allocated(device)
    cached = torch.cuda.memory_reserved(device) - used  # torch gives it out again
    return min(free + cached, int(fraction(device) * total) - used)


def _bytes_in_use(model: BYOL, image_size: int, count: int, amp: torch.dtype | None) -> list[int]:
    """After each operation of a step for `count` images, the bytes of the arrays it has made."""
    views = torch.zeros(2, count, 3, image_size, image_size)
    watch = _Watch([*model.parameters(), *model.buffers(), views])
    with left_as_it_was(model), watch:
        model.backward(*views, torch.ones(len(model.outputs)), amp)
    return watch.in_use


class _Watch(TorchDispatchMode):
    """Notes after each operation how many bytes its outputs and earlier ones still take.

    `before` are tensors that do not count.
    """

    def __init__(self, before: list[torch.Tensor]):
        super().__init__()
        self.before = {StorageWeakRef(tensor.untyped_storage()).cdata for tensor in before}
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.in_use: list[int] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.alive = {key: kept for key, kept in self.alive.items() if not kept[0].expired()}
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                reference = StorageWeakRef(storage)
                if reference.cdata not in self.before:
                    self.alive[reference.cdata] = reference, storage.nbytes()
        self.in_use.append(sum(size for _, size in self.alive.values()))
        return result
