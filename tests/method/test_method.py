"""The method against closed forms, and the faults that popular implementations have."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from narrow_encoder import narrow
from torch import nn

from byol.encoder import Encoder
from byol.method import BYOL, ema_update, frozen_copy, mlp_head, regression_loss, spread

BLOCKS = {"layer3.0": 2, "layer2.0": 4}


@pytest.fixture(scope="module")
def built():
    """The networks of both kinds of training; copies go to the tests."""
    with pytest.MonkeyPatch.context() as patch:
        narrow(patch)
        torch.manual_seed(0)
        classic = BYOL(Encoder(), hidden_dim=32, projection_dim=16)
        torch.manual_seed(0)
        return classic, BYOL(Encoder(), 32, 16, BLOCKS)


@pytest.fixture
def classic(built):
    """With one loss, on the representation."""
    return copy.deepcopy(built[0])


@pytest.fixture
def multi(built):
    """With losses on two inner blocks as well."""
    return copy.deepcopy(built[1])


@pytest.fixture
def views():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 4, 3, 32, 32, generator=generator)


def test_regression_loss_is_the_squared_distance_of_unit_vectors():
    a, b = torch.randn(5, 7), torch.randn(5, 7)
    distance = (F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(1)
    torch.testing.assert_close(regression_loss(a, b), distance)
    torch.testing.assert_close(regression_loss(a, 3 * a), torch.zeros(5), atol=1e-6, rtol=0)
    torch.testing.assert_close(regression_loss(a, -a), torch.full((5,), 4.0))


def test_regression_loss_is_float32_for_half_precision_input():
    a = torch.randn(5, 7).bfloat16()
    assert regression_loss(a, a).dtype == torch.float32


def test_loss_is_the_sum_of_both_cross_terms(classic, views):
    """Each view predicts the other, each normalised on its own, nothing halved."""
    view1, view2 = views
    reference = copy.deepcopy(classic)

    def online(view):
        projection = reference.projectors[0](reference.encoder(view))
        return F.normalize(reference.predictors[0](projection), dim=1)

    def target(view):
        return F.normalize(reference.target_projectors[0](reference.target_encoder(view)), dim=1)

    expected = 0.0
    for one, other in ((view1, view2), (view2, view1)):
        cosine = (online(one) * target(other)).sum(1)
        expected = expected + (2 - 2 * cosine).mean()
    loss, _ = classic(view1, view2)
    assert loss.shape == (1,)
    torch.testing.assert_close(loss[0], expected)
    assert 0 < loss.item() < 8

    same_view = sum((2 - 2 * (online(v) * target(v)).sum(1)).mean() for v in (view1, view2))
    assert abs(loss.item() - same_view.item()) > 1e-3  # a view paired with itself would show

    swapped, _ = classic(view2, view1)
    torch.testing.assert_close(loss, swapped)  # symmetric in the views


def test_views_are_normalised_apart(classic, views):
    """BatchNorm on 2N images would mix the statistics of two very different views."""
    view1, view2 = views[0], 5 * views[1] + 3
    loss, _ = classic(view1, view2)
    both = torch.cat([view1, view2])
    targets = [torch.cat(t.chunk(2)[::-1]) for t in classic.target_projections(both)]
    mixed = 2 * classic.predict(both, targets)[0]
    assert abs(loss.item() - mixed.item()) > 1e-3


class PeakOfActivations:
    """Counts the bytes that autograd keeps for backward, and the most at a time."""

    def __init__(self, *models):
        self.kept, self.now, self.most = {}, 0, 0
        self.own = {p.untyped_storage().data_ptr() for m in models for p in m.parameters()}

    def hooks(self):
        peak = self

        class Kept:
            def __init__(self, tensor):
                self.tensor, storage = tensor, tensor.untyped_storage()
                self.key, self.size = storage.data_ptr(), storage.nbytes()
                peak.add(self.key, self.size, 1)

            def __del__(self):
                peak.add(self.key, self.size, -1)

        return torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor)

    def add(self, key, size, by):
        if key in self.own:
            return
        before = self.kept.get(key, 0)
        self.kept[key] = before + by
        if 0 in (before, self.kept[key]):
            self.now += by * size
            self.most = max(self.most, self.now)


def test_backward_is_the_gradient_of_the_weighted_loss_in_half_the_memory(multi, views):
    """Against the loss written out, which runs backward once, on the sum of both terms."""
    multi.double()
    views = views.double()
    whole = copy.deepcopy(multi)
    weights = torch.tensor([1.0, 0.5, 2.0])  # the loss is float32 throughout

    def written_out():
        online = [whole.encoder.outputs(view, BLOCKS) for view in views]
        with torch.no_grad():
            target = [whole.target_encoder.outputs(view, BLOCKS) for view in views]
        losses, spreads = [], []
        for number, name in enumerate(["avgpool", *BLOCKS]):
            project, predict = whole.projectors[number], whole.predictors[number]
            z1, z2 = (project(features[name]) for features in online)
            with torch.no_grad():
                t1, t2 = (whole.target_projectors[number](features[name]) for features in target)
            loss = regression_loss(predict(z1), t2) + regression_loss(predict(z2), t1)
            losses.append(loss.mean())
            spreads.append(spread(z1))
        return torch.stack(losses), torch.stack(spreads)

    at_once, in_turn = PeakOfActivations(whole), PeakOfActivations(multi)
    with at_once.hooks():
        expected, expected_spreads = written_out()
        (3 * (expected @ weights)).backward()
    with in_turn.hooks():
        losses, spreads = multi.backward(*views, weights, None, lambda loss: 3 * loss)
    torch.testing.assert_close(losses, expected.detach())
    torch.testing.assert_close(spreads, expected_spreads)
    assert not losses.requires_grad
    assert at_once.now == in_turn.now == 0
    assert 0 < in_turn.most < 0.55 * at_once.most
    for (name, a), b in zip(multi.named_parameters(), whole.parameters(), strict=True):
        if a.requires_grad:
            torch.testing.assert_close(a.grad, b.grad, atol=1e-9, rtol=1e-6, msg=name)
    for (name, a), b in zip(multi.named_buffers(), whole.buffers(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-6, msg=name)


def test_each_output_has_a_loss_and_heads_of_its_own(multi, views):
    """Inner maps that torchvision's own hooks see, flattened, through heads written out here."""
    reference = copy.deepcopy(multi)

    def flat_maps(encoder, view):
        maps = {}
        hooks = [
            encoder.get_submodule(name).register_forward_hook(
                lambda module, inputs, output, name=name: maps.update({name: output.flatten(1)})
            )
            for name in ("avgpool", "layer3.0", "layer2.0")
        ]
        encoder(view)
        for hook in hooks:
            hook.remove()
        return maps

    online = [flat_maps(reference.encoder, view) for view in views]
    target = [flat_maps(reference.target_encoder, view) for view in views]
    losses, spreads = multi(*views)
    assert multi.outputs == ["avgpool", "layer3.0", "layer2.0"]
    for number, name in enumerate(multi.outputs):
        p1, p2 = (
            reference.predictors[number](reference.projectors[number](maps[name]))
            for maps in online
        )
        t1, t2 = (reference.target_projectors[number](maps[name]) for maps in target)
        expected = 4 - 2 * F.cosine_similarity(p1, t2) - 2 * F.cosine_similarity(p2, t1)
        torch.testing.assert_close(losses[number], expected.mean(), msg=name)
        first = reference.projectors[number](online[0][name])
        torch.testing.assert_close(spreads[number], spread(first), msg=name)


def test_classic_is_the_first_part_of_multi(classic, multi, views):
    """The same seed gives the same encoder, so that the two kinds of training can be compared."""
    for a, b in zip(classic.encoder.parameters(), multi.encoder.parameters(), strict=True):
        assert torch.equal(a, b)
    for head in (classic.projectors[0], classic.predictors[0], multi.projectors[0],
                 multi.predictors[0]):  # fmt: skip
        for p in head.parameters():
            nn.init.normal_(p, generator=torch.Generator().manual_seed(p.numel()))
    for model in (classic, multi):
        model.target_projectors.load_state_dict(model.projectors.state_dict())
    torch.testing.assert_close(classic(*views)[0][0], multi(*views)[0][0])


def test_only_the_online_network_gets_gradients(multi, views):
    multi(*views)[0].sum().backward()
    for name, parameter in multi.named_parameters():
        if name.startswith("target"):
            assert parameter.grad is None, name
            assert not parameter.requires_grad
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


def test_target_starts_as_a_copy_and_normalises_by_its_own_batch(multi, views):
    for online, target in ((multi.encoder, multi.target_encoder),
                           (multi.projectors, multi.target_projectors)):  # fmt: skip
        for a, b in zip(online.parameters(), target.parameters(), strict=True):
            assert torch.equal(a, b)
            assert a.data_ptr() != b.data_ptr()
    multi.train()
    assert multi.target_encoder.bn1.training
    before = multi.target_encoder.bn1.running_mean.clone()
    multi(*views)
    assert not torch.equal(before, multi.target_encoder.bn1.running_mean)


def test_ema_multiplies_the_target_by_tau_and_leaves_buffers_alone():
    online = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    target = frozen_copy(online)
    with torch.no_grad():
        for p in online.parameters():
            p.add_(1.0)
        online[1].running_mean.fill_(9.0)
    before = [p.clone() for p in target.parameters()]
    ema_update(target, online, tau=0.9)
    for old, new, other in zip(before, target.parameters(), online.parameters(), strict=True):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * other)
    assert torch.equal(target[1].running_mean, torch.zeros(2))


def test_update_target_moves_encoder_and_projectors(multi):
    with torch.no_grad():
        for p in multi.parameters():
            if p.requires_grad:
                p.add_(0.5)
    multi.update_target(0.0)
    for online, target in ((multi.encoder, multi.target_encoder),
                           (multi.projectors, multi.target_projectors)):  # fmt: skip
        for a, b in zip(online.parameters(), target.parameters(), strict=True):
            torch.testing.assert_close(a, b)


def test_heads_have_the_papers_layers():
    head = mlp_head(512)
    assert [type(m).__name__ for m in head] == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert head[0].weight.shape == (4096, 512)
    assert head[0].bias is not None
    assert head[3].weight.shape == (256, 4096)
    assert head[3].bias is None


def test_spread_is_zero_when_collapsed_and_one_on_the_sphere():
    assert spread(torch.ones(64, 32)).item() == pytest.approx(0, abs=1e-6)
    assert spread(torch.randn(4096, 32)).item() == pytest.approx(1, abs=0.02)
    assert math.isfinite(spread(torch.randn(2, 8).bfloat16()).item())


def test_a_few_steps_lower_the_loss_on_one_batch(classic, views):
    optimizer = torch.optim.SGD([p for p in classic.parameters() if p.requires_grad], lr=0.05)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss, _ = classic(*views)
        loss.backward()
        optimizer.step()
        classic.update_target(0.99)
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
