"""Which device a name stands for, its precision, its memory; threads that compute alone."""

import threading
from types import SimpleNamespace

import pytest
import torch
from refusals import fails

import train_byol
import train_classifier
from byol.command_line import command
from byol.errors import UserError
from byol.hardware.batches import has_room
from byol.hardware.device import (
    describe,
    free_bytes,
    has_code_for,
    pick_amp,
    pick_device,
    read_later,
    set_up,
    workers,
)

BUILT_FOR = ["sm_75", "sm_80", "sm_86", "sm_90a", "sm_120"]


@pytest.fixture
def two_cards(monkeypatch):
    """A machine that says it has two CUDA devices; the list says which became the current one."""
    current = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    card(monkeypatch, (8, 6), "NVIDIA GeForce RTX 3070")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: BUILT_FOR)
    return current


def card(monkeypatch, generation, name):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: generation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)


@pytest.mark.parametrize(
    ("name", "index"), [("auto", 0), ("cuda", 0), ("cuda:0", 0), ("cuda:1", 1)]
)
def test_a_cuda_device_has_a_number_and_becomes_the_current_one(two_cards, name, index):
    """Without a number some of torch's functions refuse it, others take the current one."""
    assert pick_device(name) == torch.device("cuda", index)
    assert two_cards == [torch.device("cuda", index)]


def test_the_cpu(two_cards):
    assert pick_device("cpu") == torch.device("cpu")
    assert two_cards == []


def test_each_of_several_processes_takes_the_card_of_its_number(two_cards, monkeypatch):
    variables = {"RANK": "5", "WORLD_SIZE": "8", "MASTER_ADDR": "first", "MASTER_PORT": "1"}
    for name, value in {**variables, "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    for name in ("auto", "cuda"):
        assert pick_device(name) == torch.device("cuda", 1)
    assert two_cards == [torch.device("cuda", 1)] * 2
    with pytest.raises(UserError, match="--device cuda:0 is one GPU, and there are several proc"):
        pick_device("cuda:0")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match="has 2 CUDA devices, and torchrun starts process 2"):
        pick_device("auto")


@pytest.mark.parametrize("name", ["cuda:2", "tpu", "meta", "mps", "cuda:x"])
def test_an_absent_one(two_cards, name):
    with pytest.raises(UserError, match=name):
        pick_device(name)


@pytest.mark.parametrize(
    ("generation", "built_for", "runs"),
    [
        ((7, 5), BUILT_FOR, True),
        ((8, 9), BUILT_FOR, True),  # by the code of 8.6
        ((12, 0), BUILT_FOR, True),
        ((6, 1), BUILT_FOR, False),
        ((7, 0), BUILT_FOR, False),  # older than 7.5
        ((10, 0), BUILT_FOR, False),  # none of its major number
        ((10, 0), [*BUILT_FOR, "compute_90"], True),  # compiled on the spot
        ((6, 1), ["compute_90"], False),
        ((9, 4), ["gfx942"], True),  # AMD: nothing is known, so it may try
    ],
)
def test_a_build_runs_on_the_cards_it_has_code_for(generation, built_for, runs):
    assert has_code_for(generation, built_for) == runs


@pytest.mark.parametrize("name", ["auto", "cuda", "cuda:1"])
def test_a_card_that_this_build_has_no_code_for(two_cards, monkeypatch, name):
    card(monkeypatch, (6, 1), "NVIDIA GeForce GTX 1080")
    with pytest.raises(UserError, match=rf"--device {name}: .* GTX 1080 .* 6\.1\); .*--device cpu"):
        pick_device(name)


@pytest.mark.parametrize(
    ("generation", "name", "amp", "banner"),
    [
        ((8, 6), "NVIDIA GeForce RTX 3070", torch.bfloat16, "mixed bfloat16"),
        ((7, 5), "NVIDIA GeForce RTX 2070", torch.float16, "mixed float16"),
        ((7, 5), "NVIDIA GeForce GTX 1660 Ti", None, "float32"),
        ((6, 1), "NVIDIA GeForce GTX 1080", None, "float32"),
    ],
)
def test_the_precision_of_a_card(monkeypatch, generation, name, amp, banner):
    card(monkeypatch, generation, name)
    device = torch.device("cuda", 0)
    assert pick_amp("auto", device) == amp
    assert describe(device, amp) == f"cuda:0 ({name}), {banner}"


def test_float32_on_a_card_with_tf32_says_so(monkeypatch):
    card(monkeypatch, (8, 6), "NVIDIA GeForce RTX 3070")
    assert describe(torch.device("cuda", 0), None).endswith("float32 (TF32 in convolutions)")


def test_an_apple_gpu_is_taken_if_it_is_asked_for_and_there(monkeypatch):
    """In float32, also where the CPU has bfloat16."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr("byol.hardware.device._cpu_has_bf16", lambda: True)
    mps = torch.device("mps")
    assert set_up("mps", "auto") == set_up("mps", "off") == (mps, None)
    assert describe(mps, None) == "mps (Apple GPU), float32"
    assert pick_device("auto") == torch.device("cpu")
    assert not has_room(SimpleNamespace(nbytes=1), mps)
    for amp in ("bf16", "fp16"):
        with pytest.raises(UserError, match=f"--amp {amp}: --device mps computes in float32"):
            set_up("mps", amp)


@pytest.mark.parametrize("script", [train_byol, train_classifier], ids=lambda s: s.__name__)
def test_an_apple_gpu_that_is_not_there_is_one_sentence(script, photos, in_tmp, capsys):
    if torch.backends.mps.is_available():
        pytest.skip("this machine has an Apple GPU")
    small = ["--image-size", "32", "--labels", "8"]
    code = script.main(["--data", str(photos), *small, "--device", "mps"])
    fails(capsys, code, "--device mps: this machine, or this PyTorch, has no Apple GPU", "cpu")


def test_an_operation_that_an_apple_gpu_lacks_is_one_sentence(capsys):
    @command
    def main(argv):
        raise NotImplementedError(
            "The operator 'aten::some' is not currently implemented for the MPS device. If you want"
        )

    fails(capsys, main([]), "--device mps", "PYTORCH_ENABLE_MPS_FALLBACK=1", "--device cpu")


def test_float16_is_not_for_the_cpu():
    with pytest.raises(UserError, match="--amp fp16 needs a CUDA device"):
        pick_amp("fp16", torch.device("cpu"))
    assert pick_amp("bf16", torch.device("cpu")) == torch.bfloat16
    assert pick_amp("off", torch.device("cpu")) is None


def test_free_bytes_is_the_least_of_the_card_and_of_the_limit(monkeypatch):
    """On a card of 10 GB: 4 free, 3 allocated here, 1 cached here; the limit is a part of it."""
    told = {"mem_get_info": (4, 10), "memory_allocated": 3, "memory_reserved": 4}
    emptied = {"mem_get_info": (5, 10), "memory_reserved": 3}
    for name in told:
        monkeypatch.setattr(torch.cuda, name, lambda device, name=name: told[name])
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: told.update(emptied))
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
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GiB, other allocations: 1 GiB)"),
    ],
)
def test_no_memory_left_on_the_gpu_is_one_sentence(error, capsys):
    @command
    def main(argv):
        raise error

    fails(capsys, main([]), "the GPU has too little memory", "--batch-size", "--device cpu")


def test_another_error_is_left_as_it_is():
    @command
    def main(argv):
        raise RuntimeError("the shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        main([])


def test_values_are_read_later():
    assert read_later(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))() == [[1, 2], [3, 4]]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_values_that_are_read_later_from_cuda_are_those_of_now():
    values = torch.arange(4.0, device="cuda")
    later = read_later(values)
    values.add_(10)
    assert later() == [0, 1, 2, 3]


def test_workers_compute_alone_and_leave_the_callers_threads():
    before = torch.get_num_threads()
    pool = workers(-1, 3)
    meet = threading.Barrier(3)
    counts = list(pool.map(lambda _: (meet.wait(), torch.get_num_threads())[1], range(3)))
    try:
        assert counts == [1, 1, 1]
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
