"""The estimate of a step's memory against what the allocator hands out in a real step."""

import copy
import json

import pytest
import torch

from benchmarks import step_memory
from byol.config import PretrainConfig
from byol.encoder import Encoder
from byol.hardware import step
from byol.method import BYOL


def ratio_of(capfd, flags: str) -> float:
    """Run the benchmark: the estimate as a multiple of what was measured."""
    assert step_memory.main(flags.split()) == 0
    (line,) = [line for line in capfd.readouterr().out.splitlines() if line.startswith("{")]
    result = json.loads(line)
    assert {"python", "torch", "numpy", "commit"} <= result.keys()
    ratio = result["estimated_gib"] / result["measured_gib"]
    assert result["ratio_to_measured"] == pytest.approx(ratio, rel=0.02)
    return result["ratio_to_measured"]


@pytest.mark.parametrize(
    ("flags", "one_pass"),
    [
        ("--losses classic --amp bf16 --optimizer sgd", True),
        ("--losses multi --amp bf16 --optimizer lars", False),
        ("--losses classic --amp off --optimizer adamw", False),
        ("--losses classic --amp bf16 --arch resnet50", True),
    ],
)
def test_the_estimate_is_within_a_fifth_of_what_a_step_takes(
    flags, one_pass, few_layers, monkeypatch, capfd
):
    monkeypatch.setattr(step, "MOST_PIXELS", 2**18 if one_pass else 0)
    sizes = "--device cpu --image-size 64 --batch-size 24 --hidden-dim 64 --projection-dim 32"
    assert ratio_of(capfd, f"{sizes} {flags}") == pytest.approx(1, rel=0.2)


def test_the_estimate_grows_with_the_batch(few_layers):
    """So the test above is not of the weights alone."""
    model = BYOL(Encoder(), 64, 32)
    settings = {"image_size": 64, "view_size": 64, "losses": "classic", "optimizer": "sgd"}
    small, large = (
        step_memory.estimate_step_bytes(model, PretrainConfig(**settings, batch_size=size), None)
        for size in (2, 24)
    )
    assert large > 1.3 * small, (small, large)


def test_the_estimate_leaves_the_weights_alone(few_layers):
    model = BYOL(Encoder(), 64, 32)
    before = copy.deepcopy(model.state_dict())
    config = PretrainConfig(image_size=32, view_size=32, losses="classic", batch_size=8)
    step_memory.estimate_step_bytes(model, config, None)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]), name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("flags", ["--image-size 150 --batch-size 64", "--image-size 64"])
def test_the_estimate_is_within_a_fifth_on_cuda(flags, capfd):
    ratio = ratio_of(capfd, f"--device cuda:0 --amp bf16 --losses classic {flags}")
    assert ratio == pytest.approx(1, rel=0.2)
