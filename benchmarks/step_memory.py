"""Can the memory of a training step be foretold? Prints one JSON line.

    python -m benchmarks.step_memory --image-size 64 --batch-size 32 --device cpu
    python -m benchmarks.step_memory --arch resnet50 --optimizer lars --amp bf16 --hidden-dim 4096

Takes the flags of train_byol.py; it needs no photos. Compares two figures: an estimate from the
steps of two and of four images on the CPU, and the most that the allocator handed out during a real
step (on a CPU by torch's profiler, on a card by its own count). What libraries take for themselves
is in neither. The step is not recorded as a CUDA graph: a recording keeps its memory.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.common import build_model, versions
from byol.command_line import command, parse
from byol.config import PretrainConfig
from byol.hardware.device import describe, pick_amp, pick_device
from byol.hardware.step import Backward, LossScaler
from byol.method import BYOL
from byol.optim import build_optimizer, parameter_groups, set_lr

OPTIMIZER_COPIES = {"lars": 1, "sgd": 1, "adamw": 2}  # of the weights that it trains


@command
def main(argv: list[str] | None = None) -> None:
    config, _ = parse(PretrainConfig, argv, __doc__.splitlines()[0])
    config.cuda_graph = False
    device = pick_device(config.device)
    amp = pick_amp(config.amp, device)
    model = build_model(config, device)
    measured = measure_step_bytes(model, config, amp, device)
    estimate = estimate_step_bytes(model.cpu(), config, amp)
    keys = ("arch", "stem", "losses", "batch_size", "accumulate", "optimizer", "hidden_dim")
    result = {
        "ratio_to_measured": round(estimate / measured, 3),
        "estimated_gib": round(estimate / 2**30, 3),
        "measured_gib": round(measured / 2**30, 3),
        "view_size": config.view_side,
        **{key: getattr(config, key) for key in keys},
        "device": describe(device, amp),
        **versions(),
    }
    print(json.dumps(result))


def measure_step_bytes(
    model: BYOL, config: PretrainConfig, amp: torch.dtype | None, device: torch.device
) -> int:
    """Take two steps on noise: the most bytes of weights, optimizer, views and arrays at a time."""
    scaler = LossScaler(device, amp)
    optimizer = build_optimizer(
        config.optimizer, parameter_groups(model), config.decay, scaler.enabled
    )
    set_lr(optimizer, 1e-3)
    backward = Backward(model, config, amp, scaler)
    side = config.view_side
    views = torch.randn(2, config.micro_batch, 3, side, side, device=device)

    def take_step() -> None:
        backward(*views)
        scaler.step(optimizer)
        model.update_target(0.99)

    take_step()  # makes the optimizer's state
    optimizer.zero_grad(set_to_none=True)
    states = [t for state in optimizer.state.values() for t in state.values() if torch.is_tensor(t)]
    held = sum(tensor.nbytes for tensor in [*model.parameters(), *states, views])
    most_bytes = most_bytes_on_cuda if device.type == "cuda" else most_bytes_on_cpu
    return held + most_bytes(take_step)


def most_bytes_on_cuda(run: Callable[[], None]) -> int:
    """Run: the most bytes that were handed out at a time, beyond those of before."""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated() - before


def most_bytes_on_cpu(run: Callable[[], None]) -> int:
    """Run: the most bytes that were handed out at a time, beyond those of before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    in_use = most = 0
    for event in sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: e["ts"]):
        in_use += event["args"]["Bytes"]
        most = max(most, in_use)
    return most


def estimate_step_bytes(model: BYOL, config: PretrainConfig, amp: torch.dtype | None) -> int:
    """Estimate what `measure_step_bytes` finds. The model is on the CPU.

    After each operation of a step the bytes in use grow linearly with the batch. So the steps of
    two images and of four tell what any batch uses there.
    """
    amp = amp and torch.bfloat16  # the CPU has no float16; it is as large
    count, side = config.micro_batch, config.view_side
    two, four = (bytes_in_use(model, size, side, amp) for size in (2, 4))
    arrays = max(a + (b - a) * (count - 2) // 2 for a, b in zip(two, four, strict=True))
    weights = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    states = 4 * (weights + OPTIMIZER_COPIES[config.optimizer] * trained)
    views = 4 * 2 * count * 3 * side**2
    return states + views + arrays


def bytes_in_use(model: BYOL, count: int, side: int, amp: torch.dtype | None) -> list[int]:
    """List the bytes of a step's arrays that are in use after each of its operations."""
    views = torch.zeros(2, count, 3, side, side)
    model.zero_grad(set_to_none=True)
    watch = Watch([*model.parameters(), *model.buffers(), views])
    with watch:
        model.backward(*views, torch.ones(len(model.outputs)), amp)
    return watch.in_use


class Watch(TorchDispatchMode):
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


if __name__ == "__main__":
    sys.exit(main())
