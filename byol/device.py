"""Device and precision."""

from __future__ import annotations

import ctypes
import os
import re
from contextlib import nullcontext
from pathlib import Path

import torch

from byol.errors import UserError


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU; a CUDA device becomes the current one.

    Raises `UserError` for an absent one, and for one that this PyTorch has no code for.
    """
    asked = name
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(f"--device must be auto, cpu, cuda or cuda:N, not {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices"
        )
    if device.type == "cuda":
        device = torch.device("cuda", device.index or 0)  # some of torch's functions want a number
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
    """Whether a build for `built_for` (`sm_86`, `compute_90`, ...) runs on a card of `generation`.

    Machine code (sm) runs on later cards of the same major number, compute on all later ones.
    """
    codes = [re.fullmatch(r"(sm|compute)_(\d+)(\d)[af]?", name) for name in built_for]
    codes = [(code[1], (int(code[2]), int(code[3]))) for code in codes if code]
    return not codes or any(  # AMD's builds name other things
        least <= generation and (kind == "compute" or least[0] == generation[0])
        for kind, least in codes
    )


def set_deterministic(wanted: bool) -> None:
    """Have a CUDA device repeat a run to the bit, or not. Call it before the device is used.

    An operation that has no such version then raises `RuntimeError`.
    """
    if wanted:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # cuBLAS reads it when it starts
        torch.backends.cudnn.benchmark = False
    if wanted != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(wanted)
        torch.utils.deterministic.fill_uninitialized_memory = False  # all of it is written first


def pick_amp(choice: str, device: torch.device) -> torch.dtype | None:
    """The type of mixed precision, None for float32.

    `auto`: bfloat16 where the device computes in it, CPU included; float16 on CUDA cards with
    tensor cores but without bfloat16; off elsewhere, as on the GTX 16 series.
    """
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
    """Context of mixed precision, or one that does nothing."""
    return torch.autocast(device.type, dtype) if dtype is not None else nullcontext()


def describe(device: torch.device, dtype: torch.dtype | None) -> str:
    """For the banner: `cuda:0 (NVIDIA ...), mixed bfloat16` or `cpu (2 threads), float32`."""
    precision = "float32" if dtype is None else f"mixed {str(dtype).removeprefix('torch.')}"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        if dtype is None and torch.cuda.get_device_capability(device) >= (8, 0):
            precision += " (TF32 in convolutions)"  # PyTorch's default
    else:
        name = f"{torch.get_num_threads()} threads"
    return f"{device} ({name}), {precision}"


def keep_freed_memory() -> None:
    """Let the C library keep what is freed instead of giving it back, where it is glibc.

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
