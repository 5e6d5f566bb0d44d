"""Which device a name stands for."""

import pytest
import torch

from byol.device import pick_device
from byol.errors import UserError


@pytest.fixture
def two_cards(monkeypatch):
    """A machine that says it has two CUDA devices; the list says which became the current one."""
    current = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    return current


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
