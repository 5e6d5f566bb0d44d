"""Which device a name stands for."""

import pytest
import torch

from byol.device import describe, has_code_for, pick_amp, pick_device
from byol.errors import UserError

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
