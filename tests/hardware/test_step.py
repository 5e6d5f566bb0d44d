"""Forward and backward by the fastest way: the same sums; steps that float16 skips are counted."""

import copy
from math import inf

import pytest
import torch
from narrow_encoder import narrow
from torch import nn

from byol.config import PretrainConfig
from byol.encoder import Encoder
from byol.hardware.cuda_graph import leaves_room, undo_side_effects
from byol.hardware.one_pass import (
    OnePassBYOL,
    PerViewBatchNorm1d,
    PerViewBatchNorm2d,
    take_one_pass,
)
from byol.hardware.small_maps import PatchConv2d
from byol.hardware.step import Backward, LossScaler, prepare
from byol.method import BYOL, regression_loss, spread
from byol.optim import build_optimizer, parameter_groups, set_lr

CPU = torch.device("cpu")
BLOCKS = {"layer3.0": 2, "layer2.0": 4}


@pytest.fixture(scope="module")
def built():
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        narrow(patch)
        return BYOL(Encoder(), 32, 16, BLOCKS)


@pytest.fixture
def model(built):
    return copy.deepcopy(built)


@pytest.fixture
def views():
    """Two views of unlike statistics."""
    views = torch.randn(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return views * torch.tensor([1.0, 5.0]).view(2, 1, 1, 1, 1)


def assert_same(model, other):
    """The gradients and the running statistics of all networks."""
    for (name, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
        if a.requires_grad:
            torch.testing.assert_close(a.grad, b.grad, atol=1e-6, rtol=1e-4, msg=name)
    for (name, a), b in zip(model.named_buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-6, msg=name)


# ---- both views in one pass ----


def test_one_pass_for_both_views_is_two_passes(model, views):
    """The same losses, spreads, gradients, and running statistics of online and target network."""
    model.double()
    views = views.double()
    apart = copy.deepcopy(model)
    take_one_pass(model)
    losses, spreads = model(*views)

    online = [apart.encoder.outputs(view, BLOCKS) for view in views]
    with torch.no_grad():
        target = [apart.target_encoder.outputs(view, BLOCKS) for view in views]
    expected, expected_spreads = [], []
    for number, name in enumerate(["avgpool", *BLOCKS]):
        project, predict = apart.projectors[number], apart.predictors[number]
        z1, z2 = (project(features[name]) for features in online)
        with torch.no_grad():
            t1, t2 = (apart.target_projectors[number](features[name]) for features in target)
        loss = regression_loss(predict(z1), t2) + regression_loss(predict(z2), t1)
        expected.append(loss.mean())
        expected_spreads.append(spread(z1))
    torch.testing.assert_close(losses, torch.stack(expected))
    torch.testing.assert_close(spreads, torch.stack(expected_spreads))
    weights = torch.tensor([1.0, 0.5, 2.0])  # the loss is float32 throughout
    (losses @ weights).backward()
    (torch.stack(expected) @ weights).backward()
    assert_same(model, apart)


def test_one_pass_is_one_term_and_keeps_every_name(model, views):
    names = list(model.state_dict())
    take_one_pass(model)
    assert list(model.state_dict()) == names
    ((both, targets),) = model.terms(*views)
    assert torch.equal(both, torch.cat([*views]))
    assert [target.shape for target in targets] == [(8, 16)] * 3


def test_one_pass_without_batchnorm_for_each_view_would_show(model, views):
    """Plain BatchNorm on 2N images mixes the statistics of two very different views."""
    mixing = copy.deepcopy(model)
    mixing.__class__ = OnePassBYOL
    take_one_pass(model)
    assert ((model(*views)[0] - mixing(*views)[0]).abs() > 1e-3).all()


def test_batchnorm_for_each_view_is_plain_batchnorm_in_evaluation():
    torch.manual_seed(0)
    for kind, plain, shape in (
        (PerViewBatchNorm1d, nn.BatchNorm1d, (6, 5)),
        (PerViewBatchNorm2d, nn.BatchNorm2d, (6, 5, 3, 3)),
    ):
        x = 3 * torch.randn(shape) + 1
        ours, theirs = kind(5), plain(5)
        torch.testing.assert_close(ours(x), torch.cat([theirs(x[:3]), theirs(x[3:])]))
        with pytest.raises(ValueError, match="even size, not 5"):
            ours(x[:5])
        ours.eval()
        theirs.eval()
        assert torch.equal(ours(x[:5]), theirs(x[:5]))


# ---- which way ----


def backward_of(model, amp=None, scaled=False, **settings):
    scaler = LossScaler(CPU, torch.float16 if scaled else None)
    return Backward(model, PretrainConfig(**settings), amp, scaler)


@pytest.mark.parametrize(
    ("batch_size", "view_size", "accumulate", "one_pass"),
    [
        (64, 64, 1, True),
        (65, 64, 1, False),
        (128, 64, 2, True),  # 64 at a time
        (130, 64, 2, False),
        (28, 96, 1, True),
        (29, 96, 1, False),
    ],
)
def test_small_batches_of_small_views_take_one_pass(
    batch_size, view_size, accumulate, one_pass, model
):
    backward = backward_of(model, batch_size=batch_size, view_size=view_size, accumulate=accumulate)
    assert isinstance(model, OnePassBYOL) is one_pass
    assert str(backward) == ("both views in one pass" if one_pass else "a pass for each view")


@pytest.mark.parametrize(("view_size", "kind"), [(32, OnePassBYOL), (1024, BYOL)])
def test_either_way_adds_the_gradient_of_the_weighted_loss(view_size, kind, model, views):
    """Against autograd through the whole of `BYOL.forward`, for two micro-batches of a batch."""
    model.double()
    views = views.double()
    plain = copy.deepcopy(model)
    settings = {"batch_size": 8, "accumulate": 2, "loss_weights": [1.0, 0.5, 2.0]}
    backward = backward_of(model, scaled=True, view_size=view_size, **settings)
    assert type(model) is kind
    for view1, view2 in (views, 2 * views - 1):
        losses, spreads = backward(view1, view2)
        expected, expected_spreads = plain(view1, view2)
        (2**16 * expected @ torch.tensor([0.5, 0.25, 1.0])).backward()
        torch.testing.assert_close(losses, expected.detach())
        torch.testing.assert_close(spreads, expected_spreads)
        assert not losses.requires_grad
    for p in [*model.parameters(), *plain.parameters()]:
        if p.requires_grad:
            p.grad /= 2**16  # the first scale of a GradScaler
    assert_same(model, plain)


def test_prepare_keeps_outputs_names_and_weights(built, model, views):
    prepared = prepare(model, CPU)
    assert prepared is model
    kinds = {type(module) for module in model.modules() if isinstance(module, nn.Conv2d)}
    assert kinds == {PatchConv2d}
    state, before = model.state_dict(), built.state_dict()
    assert list(state) == list(before)
    for name, tensor in state.items():
        assert torch.equal(tensor, before[name]), name
        if tensor.ndim == 4:
            assert tensor.is_contiguous(memory_format=torch.channels_last), name
    views = views.double()
    expected, expected_spreads = copy.deepcopy(built).double()(*views)
    losses, spreads = model.double()(*views)
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(spreads, expected_spreads)


# ---- float16 ----


def train(model, scaler, factors, seed=0):
    """Steps whose losses are multiplied by `factors`; an infinite one overflows."""
    optimizer = build_optimizer("sgd", parameter_groups(model), 0.1, scaled=True)
    set_lr(optimizer, 0.1)
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(seed))
    for factor in factors:
        optimizer.zero_grad()
        scaler.scale(model(x).square().mean() * factor).backward()
        scaler.step(optimizer)


def test_steps_that_float16_skips_are_counted():
    scaler, model = LossScaler(CPU, torch.float16), nn.Linear(4, 2)
    assert scaler.enabled
    assert scaler.numbers().tolist() == [0, 2**16]
    before = model.weight.detach().clone()
    train(model, scaler, [inf, inf])
    assert scaler.numbers().tolist() == [2, 2**14]
    assert torch.equal(model.weight, before)
    train(model, scaler, [1, inf, 1])
    assert scaler.numbers().tolist() == [3, 2**13]
    assert not torch.equal(model.weight, before)
    assert torch.isfinite(model.weight).all()
    scaler.scaler.set_growth_interval(2)
    train(model, scaler, [1])  # a scale that rises is no skipped step
    assert scaler.numbers().tolist() == [3, 2**14]


def test_a_scaler_goes_on_where_it_was():
    first = LossScaler(CPU, torch.float16)
    train(nn.Linear(4, 2), first, [inf, 1, inf])
    state = copy.deepcopy(first.state_dict())
    later = LossScaler(CPU, torch.float16)
    later.load_state_dict(state)
    assert later.numbers().tolist() == first.numbers().tolist() == [2, 2**14]
    for scaler in (first, later):
        train(nn.Linear(4, 2), scaler, [1, inf])
        assert scaler.numbers().tolist() == [3, 2**13]
    assert first.state_dict() == later.state_dict() != state


def test_without_float16_a_scaler_does_nothing():
    for amp in (None, torch.bfloat16):
        scaler, loss = LossScaler(CPU, amp), torch.tensor(3.0)
        assert scaler.scale(loss) is loss
        assert scaler.state_dict() == {}
        model, plain = nn.Linear(4, 2), nn.Linear(4, 2)
        plain.load_state_dict(model.state_dict())
        train(model, scaler, [1, 1])
        train(plain, torch.amp.GradScaler("cpu", enabled=False), [1, 1])
        assert torch.equal(model.weight, plain.weight)
        assert scaler.numbers().tolist() == [0, 1]


def test_a_scaler_takes_the_state_of_a_run_in_another_precision():
    fp16, off = LossScaler(CPU, torch.float16), LossScaler(CPU, None)
    train(nn.Linear(4, 2), fp16, [inf])
    off.load_state_dict(fp16.state_dict())
    assert off.numbers().tolist() == [0, 1]
    fp16.load_state_dict(off.state_dict())
    assert fp16.numbers().tolist() == [1, 2**15]


# ---- recorded steps, as far as a CPU can tell ----


def test_a_recording_leaves_room_for_as_much_again():
    assert leaves_room(before=10, after=6)
    assert not leaves_room(before=10, after=5)
    assert not leaves_room(before=10, after=1)


def test_side_effects_of_a_trial_step_are_undone(model, views):
    before = copy.deepcopy(model.state_dict())

    def break_off():
        with undo_side_effects(model):
            model.backward(*views, torch.ones(3))
            mean = model.encoder.bn1.running_mean
            assert not torch.equal(mean, before["encoder.bn1.running_mean"])
            raise RuntimeError("broke off")

    with pytest.raises(RuntimeError, match="broke off"):
        break_off()
    assert all(p.grad is None for p in model.parameters())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
