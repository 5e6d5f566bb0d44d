"""Device and precision, copies to the device and back, memory."""

from __future__ import annotations

import ctypes
import functools
import os
import re
import resource
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from byol.errors import UserError
from byol.files import usable_cores
from byol.hardware import distributed


def set_up(
    device: str, amp: str, deterministic: bool = False
) -> tuple[torch.device, torch.dtype | None]:
    """Choose device and precision (`--device`, `--amp`), and set the process up for them.

    Raises `UserError` for what this machine does not have.
    """
    set_deterministic(deterministic)
    if torch.get_num_threads() > usable_cores():  # a limit that torch does not see
        torch.set_num_threads(usable_cores())
    chosen = pick_device(device)
    keep_freed_memory()
    return chosen, pick_amp(amp, chosen)


def pick_device(name: str) -> torch.device:
    """Choose the device: `auto` is CUDA if there is one, else the CPU. CUDA becomes current.

    Of several processes on a machine each takes the GPU of its number.

    `mps` is the GPU of an Apple computer. `auto` does not take it, as nobody has tried it here.
    Raises `UserError` for a device that is absent, or that this PyTorch has no code for.
    """
    asked = name
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise UserError(f"--device must be auto, cpu, cuda, cuda:N or mps, not {name!r}")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError(
            f"--device {asked}: this machine, or this PyTorch, has no Apple GPU; give auto or cpu"
        )
    if device.type == "cuda" and device.index is not None and distributed.count() > 1:
        raise UserError(f"--device {name} is one GPU, and there are several processes: give cuda")
    if device.type == "cuda":
        index = distributed.local_rank() if device.index is None else device.index
        if index >= torch.cuda.device_count():
            asked_by = f", and torchrun starts process {index}" if distributed.count() > 1 else ""
            raise UserError(
                f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices"
                f"{asked_by}"
            )
        device = torch.device("cuda", index)  # some of torch's functions want a number
        torch.cuda.set_device(device)
        generation = torch.cuda.get_device_capability(device)
        if not has_code_for(generation, torch.cuda.get_arch_list()):
            card, number = torch.cuda.get_device_name(device), ".".join(map(str, generation))
            raise UserError(
                f"--device {asked}: this PyTorch has no code for {card} (compute capability "
                f"{number}); install a build that has, or give --device cpu"
            )
    return device


def has_code_for(generation: tuple[int, int], built_for: list[str]) -> bool:
    """Tell whether a build runs on a card of `generation`, such as (8, 6).

    `built_for`: what it has code for (`sm_86`, `compute_90`, ...). Machine code (sm) runs on later
    cards of the same major number, compute on all later cards.
    """
    codes = [re.fullmatch(r"(sm|compute)_(\d+)(\d)[af]?", name) for name in built_for]
    codes = [(code[1], (int(code[2]), int(code[3]))) for code in codes if code]
    return not codes or any(  # AMD's builds name other things
        least <= generation and (kind == "compute" or least[0] == generation[0])
        for kind, least in codes
    )


def set_deterministic(wanted: bool) -> None:
    """Make a CUDA device repeat a run to the bit, or not. Call it before the device is used.

    An operation that has no such version then raises `RuntimeError`.
    """
    if wanted:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # cuBLAS reads it when it starts
        torch.backends.cudnn.benchmark = False
    if wanted != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(wanted)
        torch.utils.deterministic.fill_uninitialized_memory = False  # all of it is written first


def pick_amp(choice: str, device: torch.device) -> torch.dtype | None:
    """Choose the type of mixed precision; None is float32.

    `auto`: bfloat16 if the device computes in it, CPU included; float16 on CUDA cards that have
    tensor cores but no bfloat16; else off, as on the GTX 16 series and on Apple GPUs.
    """
    if device.type == "mps":
        if choice not in ("auto", "off"):
            raise UserError(f"--amp {choice}: --device mps computes in float32; leave --amp out")
        return None
    if choice == "auto":
        if device.type == "cuda":
            major, _ = torch.cuda.get_device_capability(device)
            # GTX 16 cards are 7.5 without them; convolutions in float16 are known to give NaN there
            tensor_cores = major >= 7 and "GTX 16" not in torch.cuda.get_device_name(device)
            choice = "bf16" if major >= 8 else "fp16" if tensor_cores else "off"
        else:
            choice = "bf16" if _cpu_has_bf16() else "off"
    if choice == "fp16" and device.type == "cpu":
        raise UserError("--amp fp16 needs a CUDA device; use bf16 or off on the CPU")
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "off": None}[choice]


def _cpu_has_bf16() -> bool:
    try:
        return "avx512_bf16" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def autocast(device: torch.device, dtype: torch.dtype | None):
    """Give the context of mixed precision, or one that does nothing."""
    return torch.autocast(device.type, dtype) if dtype is not None else nullcontext()


def describe(device: torch.device, dtype: torch.dtype | None) -> str:
    """Describe both: `cuda:0 (NVIDIA ...), mixed bfloat16` or `cpu (2 threads), float32`."""
    precision = "float32" if dtype is None else f"mixed {str(dtype).removeprefix('torch.')}"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        if dtype is None and torch.cuda.get_device_capability(device) >= (8, 0):
            precision += " (TF32 in convolutions)"  # PyTorch's default
    elif device.type == "mps":
        name = "Apple GPU"
    else:
        name = f"{torch.get_num_threads()} threads"
    return f"{device} ({name}), {precision}"


def keep_freed_memory() -> None:
    """Tell the C library (glibc) to keep freed memory instead of giving it back.

    A step on the CPU allocates and frees the same large arrays each time; fetching their pages anew
    from the system costs up to half of it (see benchmarks/README.md). The peak grows by a few per
    cent at most.
    """
    trim_threshold, most_mappings = -1, -4  # names of mallopt(3)
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(most_mappings, 0)  # a mapping is given back when it is freed
    except (OSError, AttributeError):
        pass


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """Copy an array to the device. For CUDA the host does not wait."""
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


@functools.lru_cache
def workers(process: int, count: int) -> ThreadPoolExecutor:
    """Start `count` threads of `process`, each of which computes alone.

    torch's own threads would share every small operation instead, and wait
    for each other thousands of times a batch, which takes far longer on a busy machine.
    """

    def alone() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # settles it for this thread, whatever others set later

    pool = ThreadPoolExecutor(count, initializer=alone)
    started = threading.Barrier(count + 1)
    for _ in range(count):
        pool.submit(started.wait)
    started.wait()
    torch.set_num_threads(count)  # threads that others start later take over the last value set
    return pool


def read_later(tensor: Tensor) -> Callable[[], list]:
    """Start to copy `tensor` to the host, and return a function that gives its values as lists.

    On CUDA that function waits for the work queued until now, not for work queued later.
    """
    if not tensor.is_cuda:
        return tensor.tolist
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    copy.copy_(tensor, non_blocking=True)
    arrived = torch.cuda.current_stream(tensor.device).record_event()

    def values() -> list:
        arrived.synchronize()
        return copy.tolist()

    return values


def free_bytes(device: torch.device) -> int:
    """Count what this process may still take on a CUDA device, its own limit included."""
    torch.cuda.empty_cache()  # what is reserved after this is in use, or held by a CUDA graph
    free, total = torch.cuda.mem_get_info(device)
    fraction = getattr(torch.cuda, "get_per_process_memory_fraction", lambda _: 1.0)  # new in 2.8
    return min(free, int(fraction(device) * total) - torch.cuda.memory_reserved(device))


def peak_bytes(device: torch.device) -> int:
    """Count the most memory taken so far: of the GPU's, or on a CPU of this process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()  # of now; its cache keeps what is freed
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
