"""The estimate against the allocator's own count of a real step."""

import copy
import json

import pytest
import torch
from refusals import fails
from torch.profiler import ProfilerActivity, profile

from byol.encoder import Encoder
from byol.errors import command
from byol.learner import BYOL
from byol.memory import estimate_step_bytes, free_bytes
from byol.optim import build_optimizer, parameter_groups, set_lr

CPU = torch.device("cpu")
TAPS = {"layer3.0": 2, "layer2.0": 4}


def most_bytes(run, trace):
    """The most that the allocator handed out at a time while `run` ran, by torch's profiler."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    profiler.export_chrome_trace(str(trace))
    events = json.loads(trace.read_text())["traceEvents"]
    events = sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: e["ts"])
    assert len(events) > 100
    in_use, most = 0, 0
    for event in events:
        in_use += event["args"]["Bytes"]
        most = max(most, in_use)
    return most


@pytest.mark.parametrize(
    ("arch", "size", "batch", "optimizer", "amp", "one_pass", "taps"),
    [
        ("resnet18", 64, 32, "sgd", torch.bfloat16, True, {}),
        ("resnet18", 64, 32, "lars", torch.bfloat16, False, TAPS),
        ("resnet18", 64, 64, "adamw", None, False, {}),
        ("resnet50", 64, 24, "sgd", torch.bfloat16, False, {}),
    ],
)
def test_the_estimate_is_within_a_fifth_of_what_a_step_takes(
    arch, size, batch, optimizer, amp, one_pass, taps, tmp_path
):
    model = BYOL(Encoder(arch), 64, 32, one_pass, taps)
    estimate = estimate_step_bytes(model, size, batch, optimizer, amp, CPU)
    model.to(memory_format=torch.channels_last)
    views = torch.randn(2, batch, 3, size, size)
    chosen = build_optimizer(optimizer, parameter_groups(model), 1e-4)
    set_lr(chosen, 1e-3)

    def step():
        chosen.zero_grad(set_to_none=True)
        model.backward(*views, torch.ones(len(model.outputs)), amp)
        chosen.step()
        model.update_target(0.99)

    step()  # makes the optimizer's state
    chosen.zero_grad(set_to_none=True)
    states = [t for state in chosen.state.values() for t in state.values() if torch.is_tensor(t)]
    before = sum(t.nbytes for t in [*model.parameters(), *states, views])
    measured = before + most_bytes(step, tmp_path / "trace.json")
    assert estimate == pytest.approx(measured, rel=0.2)


def test_the_estimate_leaves_the_model_alone():
    model = BYOL(Encoder(), 64, 32)
    before = copy.deepcopy(model.state_dict())
    estimate_step_bytes(model, 32, 8, "sgd", None, CPU)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert all(p.grad is None for p in model.parameters())


def test_a_gpu_needs_no_patches():
    """On the CPU small maps are unfolded, nine times as large; elsewhere they are not."""
    model = BYOL(Encoder(), 64, 32)
    sizes = [
        estimate_step_bytes(model, 64, 256, "sgd", None, torch.device(name))
        for name in ("cpu", "cuda")
    ]
    assert sizes[0] > 1.1 * sizes[1]


def test_free_bytes_is_the_least_of_the_card_and_of_the_limit(monkeypatch):
    """On a card of 10 GB: 4 free, 3 allocated here, 1 cached here; the limit is a part of it."""
    told = {"mem_get_info": (4, 10), "memory_allocated": 3, "memory_reserved": 4}
    for name, value in told.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    for fraction, expected in ((1.0, 5), (0.7, 4), (0.3, 0)):
        name = "get_per_process_memory_fraction"  # torch 2.6 has none
        monkeypatch.setattr(torch.cuda, name, lambda device, f=fraction: f, raising=False)
        assert free_bytes(torch.device("cuda", 0)) == expected


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
    ],
)
def test_no_memory_left_on_the_gpu_is_one_sentence(error, capsys):
    @command
    def main(argv):
        raise error

    fails(capsys, main(), "the GPU has too little memory", "--batch-size", "--device cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize(("size", "batch"), [(150, 64), (64, 256)])
def test_the_estimate_is_within_a_fifth_on_cuda(size, batch):
    device = torch.device("cuda", 0)
    model = BYOL(Encoder(), 1024)
    estimate = estimate_step_bytes(model, size, batch, "sgd", torch.bfloat16, device)
    before = torch.cuda.memory_allocated(device)
    model.to(device, memory_format=torch.channels_last)
    optimizer = build_optimizer("sgd", parameter_groups(model), 1e-4)
    views = torch.randn(2, batch, 3, size, size, device=device)
    torch.cuda.reset_peak_memory_stats(device)
    for _ in range(3):
        optimizer.zero_grad(set_to_none=True)
        model.backward(*views, torch.ones(1, device=device), torch.bfloat16)
        optimizer.step()
        model.update_target(0.99)
    measured = torch.cuda.max_memory_allocated(device) - before
    assert estimate == pytest.approx(measured, rel=0.2)
