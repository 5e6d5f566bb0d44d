"""Several processes compute what one computes: BatchNorm, gradients, shares, decisions."""

import copy
import os
import signal
import sys
import time

import numpy as np
import pytest
import torch
from narrow_encoder import narrow
from several import in_processes
from torch import nn

from byol.config import PretrainConfig
from byol.encoder import Encoder
from byol.errors import UserError
from byol.hardware import distributed, step
from byol.hardware.global_batchnorm import GlobalBatchNorm1d, use_global_batchnorm
from byol.hardware.one_pass import PerViewBatchNorm1d, PerViewBatchNorm2d
from byol.hardware.step import Backward, LossScaler, prepare
from byol.method import BYOL

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the processes are forked")
CPU = torch.device("cpu")


# ---- BatchNorm ----


def numbers(*shape, seed, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def norm_of(kind, dtype=torch.float64):
    norm = kind(5).to(dtype)
    with torch.no_grad():
        norm.weight.copy_(numbers(5, seed=1))
        norm.bias.copy_(numbers(5, seed=2))
    return norm


def share_of_norm(kind, x, gradient):
    """What a process computes of its share of x: y, the gradients, the running statistics."""
    distributed.join(CPU, {})
    norm = norm_of(kind, x.dtype if x.dtype != torch.bfloat16 else torch.float32)
    use_global_batchnorm(norm)
    assert type(norm) is not kind
    views = 2 if kind in (PerViewBatchNorm1d, PerViewBatchNorm2d) else 1
    # as BYOL gives them: the share of the first view, then that of the second
    rows = distributed.share(np.arange(len(x)), views)
    part = x[rows].clone().requires_grad_()
    y = norm(part)
    y.backward(gradient[rows])
    sums = distributed.sum_(torch.cat([norm.weight.grad, norm.bias.grad]))
    buffers = norm.running_mean, norm.running_var, norm.num_batches_tracked
    distributed.leave()
    return rows, y.detach(), part.grad, sums, buffers


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        (nn.BatchNorm1d, 2),
        (nn.BatchNorm2d, 4),
        (PerViewBatchNorm1d, 4),
        (PerViewBatchNorm2d, 2),
    ],
)
def test_batchnorm_over_the_processes_is_batchnorm_over_the_whole_batch(kind, count):
    """In value, gradient and running statistics, in float64; a mean far from 0 costs no digits."""
    shape = (16, 5, 3, 4) if kind in (nn.BatchNorm2d, PerViewBatchNorm2d) else (16, 5)
    x = 1000 + numbers(*shape, seed=3) * torch.linspace(1, 5, 16).view(-1, *[1] * len(shape[1:]))
    gradient = numbers(*shape, seed=4)
    whole, all_of_x = norm_of(kind), x.clone().requires_grad_()
    expected = whole(all_of_x)
    expected.backward(gradient)
    for rows, y, of_x, sums, (mean, variance, tracked) in in_processes(
        count, share_of_norm, kind, x, gradient
    ):
        torch.testing.assert_close(y, expected[rows].detach(), atol=1e-9, rtol=0)
        torch.testing.assert_close(of_x, all_of_x.grad[rows], atol=1e-9, rtol=0)
        both = torch.cat([whole.weight.grad, whole.bias.grad])
        torch.testing.assert_close(sums, both, atol=1e-9, rtol=0)
        torch.testing.assert_close(mean, whole.running_mean, atol=1e-9, rtol=0)
        torch.testing.assert_close(variance, whole.running_var, atol=1e-9, rtol=0)
        assert tracked == whole.num_batches_tracked


def test_batchnorm_over_the_processes_has_exact_statistics_in_mixed_precision():
    x = numbers(16, 5, 6, 6, seed=3, dtype=torch.bfloat16) + 3
    gradient = numbers(16, 5, 6, 6, seed=4, dtype=torch.bfloat16)
    exact, all_of_x = norm_of(nn.BatchNorm2d), x.double().requires_grad_()
    expected = exact(all_of_x)
    expected.backward(gradient.double())
    for rows, y, of_x, _, (mean, variance, _) in in_processes(
        2, share_of_norm, nn.BatchNorm2d, x, gradient
    ):
        assert y.dtype == of_x.dtype == torch.bfloat16
        torch.testing.assert_close(mean.double(), exact.running_mean, atol=1e-6, rtol=0)
        torch.testing.assert_close(variance.double(), exact.running_var, atol=1e-6, rtol=0)
        for ours, theirs in ((y, expected.detach()), (of_x, all_of_x.grad)):
            error = (ours.double() - theirs[rows]).norm() / theirs[rows].norm()
            assert error < 0.004  # bfloat16 has eight bits


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
        ),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_with_one_process_it_is_batchnorm(device, dtype):
    norm = nn.BatchNorm2d(64).to(device)
    other = copy.deepcopy(norm)
    use_global_batchnorm(other)
    x = 3 + numbers(8, 64, 6, 6, seed=3, dtype=dtype).to(device, memory_format=torch.channels_last)
    one, two = x.clone().requires_grad_(), x.clone().requires_grad_()
    with torch.autocast(device, dtype, enabled=dtype != torch.float32):
        y, z = norm(one), other(two)
    assert (z.dtype, z.is_contiguous(memory_format=torch.channels_last)) == (dtype, True)
    gradient = numbers(8, 64, 6, 6, seed=4, dtype=dtype).to(device)
    y.backward(gradient)
    z.backward(gradient)
    close = (
        {"atol": 0.05, "rtol": 0.02} if dtype == torch.bfloat16 else {"atol": 1e-5, "rtol": 1e-4}
    )
    torch.testing.assert_close(z, y, **close)
    torch.testing.assert_close(two.grad, one.grad, **close)
    for name, value in norm.named_parameters():
        ours = dict(other.named_parameters())[name].grad
        torch.testing.assert_close(ours, value.grad, atol=0.01, rtol=1e-3)
    for name, value in norm.named_buffers():
        torch.testing.assert_close(dict(other.named_buffers())[name], value)


def test_in_evaluation_batchnorm_is_that_of_one_process():
    """It asks no other process: there is none here."""
    norm = norm_of(nn.BatchNorm1d).eval()
    other = copy.deepcopy(norm)
    use_global_batchnorm(other)
    assert type(other) is GlobalBatchNorm1d
    x = numbers(6, 5, seed=3)
    assert torch.equal(norm(x), other(x))


# ---- a step ----


def gradients_of_share(side: int, most_pixels: int, sync: bool = True):
    """The losses, the gradients and the buffers of a step of BYOL, of 16 photos, in float64."""
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        narrow(patch)
        patch.setattr(step, "MOST_PIXELS", most_pixels)
        model = prepare(BYOL(Encoder(), 32, 16, {"layer3.0": 2, "layer2.0": 4}).double(), CPU)
        settings = {"batch_size": 16, "view_size": side, "sync_batchnorm": sync, "device": "cpu"}
        backward = Backward(model, PretrainConfig(**settings), None, LossScaler(CPU, None))
    views = numbers(2, 16, 3, side, side, seed=5)[:, distributed.share(np.arange(16), 1)]
    distributed.join(CPU, {})
    losses, _ = backward(*views)
    losses = losses.clone()
    distributed.average_gradients(model, [losses])
    distributed.leave()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return losses, found, dict(model.named_buffers()), str(backward)


@pytest.mark.parametrize(
    ("most_pixels", "count"), [(0, 2), (2**18, 4)], ids=["two passes", "one pass"]
)
def test_the_gradient_of_several_processes_is_that_of_one(most_pixels, count, monkeypatch):
    monkeypatch.setattr(distributed, "BUCKET", 1000)  # several, and some of one large tensor
    losses, gradients, buffers, way = gradients_of_share(32, most_pixels)
    for answer in in_processes(count, gradients_of_share, 32, most_pixels):
        assert answer[3] == way
        torch.testing.assert_close(answer[0], losses, atol=1e-6, rtol=0)  # they are float32
        assert answer[1].keys() == gradients.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(answer[1][name], gradient, atol=1e-6, rtol=1e-5)
        for name, buffer in buffers.items():
            torch.testing.assert_close(answer[2][name], buffer, atol=1e-9, rtol=1e-9)


def test_without_sync_batchnorm_each_process_has_its_own_statistics():
    one, other = in_processes(2, gradients_of_share, 32, 2**18, False)
    assert all(torch.equal(one[1][name], other[1][name]) for name in one[1])  # one average
    name = "encoder.bn1.running_mean"
    assert not torch.equal(one[2][name], other[2][name])


# ---- shares and decisions ----


def test_a_micro_batch_has_the_same_photos_with_any_number_of_processes(monkeypatch):
    rows = np.random.default_rng(0).permutation(24)
    for variable in distributed.VARIABLES:
        monkeypatch.setenv(variable, "1")
    for accumulate in (1, 3):
        micro = rows.reshape(accumulate, -1)
        for count in (2, 4):
            monkeypatch.setenv("WORLD_SIZE", str(count))
            shares = []
            for rank in range(count):
                monkeypatch.setenv("RANK", str(rank))
                shares.append(distributed.share(rows, accumulate).reshape(accumulate, -1))
            assert np.array_equal(np.concatenate(shares, axis=1), micro)


def decide():
    distributed.join(CPU, {"epochs": 3})
    rank = distributed.rank()
    decided = distributed.highest(rank == 1, 143 * (rank == 2))
    distributed.leave()
    return decided


def test_what_one_process_wants_all_do():
    assert in_processes(3, decide) == [[1, 143]] * 3


def differ():
    with pytest.raises(UserError) as error:
        distributed.join(CPU, {"epochs": 3, "images": f"of {distributed.rank()}"})
    return str(error.value)


def test_processes_with_other_photos_are_refused_in_all_of_them():
    told = set(in_processes(2, differ))
    assert len(told) == 1
    assert told.pop().startswith("machine 0 has other images than machine 0: ")


def in_turn():
    def act():
        time.sleep(0 if distributed.rank() else 0.5)
        return time.monotonic()

    when = distributed.one_after_another(act)
    distributed.join(CPU, {})
    distributed.leave()
    return when


def test_the_first_process_of_a_machine_goes_first_and_one_of_the_others_says_so(
    monkeypatch, tmp_path
):
    monkeypatch.setattr(distributed, "PATIENCE", 0.1)
    with open(tmp_path / "told", "w+") as told:
        monkeypatch.setattr(sys, "__stderr__", told)
        first, *others = in_processes(3, in_turn)
        told.seek(0)
        lines = told.read().splitlines()
    assert first < min(others)
    assert lines == ["waiting     until the first process of this machine has packed the photos"]


def wait_in_vain():
    distributed.store().set(f"opened/{distributed.rank()}", "")
    if distributed.rank() == 0:
        distributed.wait_for(["opened/1"], "the other process")
        distributed._common().set("word/0", "of the next start")
        return None
    with pytest.raises(UserError) as error:
        distributed.wait_for(["done/0"], "the first process")
    return str(error.value)


def test_a_process_that_waits_ends_if_another_one_is_started_again():
    assert "another process of this run has ended" in in_processes(2, wait_in_vain)[1]


def wait_as_for_a_card():
    distributed.join(CPU, {})
    if distributed.rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def test_a_process_whose_card_waits_is_ended_if_another_one_dies(monkeypatch, tmp_path):
    monkeypatch.setattr(distributed, "GRACE", 0.2)
    with open(tmp_path / "told", "w+") as told:
        monkeypatch.setattr(sys, "__stderr__", told)
        with pytest.raises(AssertionError, match=r"ended with \[2, -9\]"):
            in_processes(2, wait_as_for_a_card)
        told.seek(0)
        assert told.read() == f"error: {distributed.LOST}\n"


def test_one_process_meets_nobody():
    """Not even the store of torchrun is asked for."""
    assert distributed.count() == 1
    assert distributed.is_first()
    assert distributed.one_after_another(lambda: 7) == 7
    assert distributed.highest(True, 0) == [True, 0]
    assert distributed.take_over(5, {}) == 5
    distributed.join(CPU, {})
    distributed.meet()
    distributed.leave()
