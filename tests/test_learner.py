"""The method against closed forms, and the faults that popular implementations have."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from byol.ema import ema_update, frozen_copy
from byol.encoder import Encoder
from byol.heads import mlp_head
from byol.learner import BYOL, regression_loss, spread
from byol.per_view import PerViewBatchNorm1d, PerViewBatchNorm2d


@pytest.fixture(params=[False, True], ids=["two passes", "one pass"])
def learner(request):
    torch.manual_seed(0)
    return BYOL(Encoder(), hidden_dim=32, projection_dim=16, one_pass=request.param)


@pytest.fixture(params=[False, True], ids=["two passes", "one pass"])
def multi(request):
    """With losses on two inner blocks."""
    torch.manual_seed(0)
    return BYOL(Encoder(), 32, 16, request.param, {"layer3.0": 2, "layer2.0": 4})


@pytest.fixture
def views():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 6, 3, 32, 32, generator=generator)


def with_plain_batchnorm(learner):
    """A copy that takes one view at a time."""
    plain = copy.deepcopy(learner)
    kinds = {PerViewBatchNorm1d: nn.BatchNorm1d, PerViewBatchNorm2d: nn.BatchNorm2d}
    for module in plain.modules():
        module.__class__ = kinds.get(type(module), type(module))
    return plain


def test_regression_loss_is_the_squared_distance_of_unit_vectors():
    a, b = torch.randn(5, 7), torch.randn(5, 7)
    distance = (F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(1)
    torch.testing.assert_close(regression_loss(a, b), distance)
    torch.testing.assert_close(regression_loss(a, 3 * a), torch.zeros(5), atol=1e-6, rtol=0)
    torch.testing.assert_close(regression_loss(a, -a), torch.full((5,), 4.0))


def test_regression_loss_is_float32_for_half_precision_input():
    a = torch.randn(5, 7).bfloat16()
    assert regression_loss(a, a).dtype == torch.float32


def test_loss_is_the_sum_of_both_cross_terms(learner, views):
    """Each view predicts the other, each normalised on its own, nothing halved."""
    view1, view2 = views
    reference = with_plain_batchnorm(learner)

    def online(view):
        projection = reference.projectors[0](reference.encoder(view))
        return F.normalize(reference.predictors[0](projection), dim=1)

    def target(view):
        return F.normalize(reference.target_projectors[0](reference.target_encoder(view)), dim=1)

    expected = 0.0
    for one, other in ((view1, view2), (view2, view1)):
        cosine = (online(one) * target(other)).sum(1)
        expected = expected + (2 - 2 * cosine).mean()
    loss, _ = learner(view1, view2)
    assert loss.shape == (1,)
    torch.testing.assert_close(loss[0], expected)
    assert 0 < loss.item() < 8

    same_view = sum((2 - 2 * (online(v) * target(v)).sum(1)).mean() for v in (view1, view2))
    assert abs(loss.item() - same_view.item()) > 1e-3  # a view paired with itself would show


def test_loss_is_symmetric_in_the_views(learner, views):
    loss, _ = learner(*views)
    swapped, _ = learner(views[1], views[0])
    torch.testing.assert_close(loss, swapped)


def test_views_are_normalised_apart(learner, views):
    """Plain BatchNorm on 2N images would mix the statistics of two very different views."""
    view1, view2 = views[0], 5 * views[1] + 3
    mixing = with_plain_batchnorm(learner)
    mixing.one_pass = True
    loss, _ = learner(view1, view2)
    mixed, _ = mixing(view1, view2)
    assert abs(loss.item() - mixed.item()) > 1e-3


def test_one_pass_for_both_views_is_two_passes(learner, views):
    """The same gradients, and the same running statistics of online and target network."""
    learner.double()
    views = views.double()
    apart = with_plain_batchnorm(learner)
    learner(*views)[0].backward()
    projector, predictor = apart.projectors[0], apart.predictors[0]
    z1, z2 = (projector(apart.encoder(view)) for view in views)
    with torch.no_grad():
        t1, t2 = (apart.target_projectors[0](apart.target_encoder(view)) for view in views)
    loss = regression_loss(predictor(z1), t2) + regression_loss(predictor(z2), t1)
    loss.mean().backward()
    for (name, a), b in zip(learner.named_parameters(), apart.parameters(), strict=True):
        if a.requires_grad:
            torch.testing.assert_close(a.grad, b.grad, atol=1e-6, rtol=1e-4, msg=name)
    for (name, a), b in zip(learner.named_buffers(), apart.buffers(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-6, msg=name)


@pytest.mark.parametrize("losses", ["classic", "multi"])
def test_terms_sent_back_one_after_the_other_give_the_gradient_of_their_sum(losses, views):
    """Against the loss written out, sent back whole; and half of the activations are kept."""
    torch.manual_seed(0)
    taps = {"layer3.0": 2, "layer2.0": 4} if losses == "multi" else {}
    model = BYOL(Encoder(), 32, 16, taps=taps).double()
    views = views.double()
    whole = copy.deepcopy(model)

    def saved_by(compute):
        kept = {}

        def note(tensor):
            kept[tensor.untyped_storage().data_ptr()] = tensor  # holds it, so no address returns
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = compute()
        own = {p.untyped_storage().data_ptr() for p in model.parameters()}
        own |= {p.untyped_storage().data_ptr() for p in whole.parameters()}
        loss.backward()
        return sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in own)

    def written_out():
        online = [whole.encoder.outputs(view, taps) for view in views]
        with torch.no_grad():
            target = [whole.target_encoder.outputs(view, taps) for view in views]
        total = 0
        for number, name in enumerate(["avgpool", *taps]):
            project, predict = whole.projectors[number], whole.predictors[number]
            z1, z2 = (project(features[name]) for features in online)
            with torch.no_grad():
                t1, t2 = (whole.target_projectors[number](features[name]) for features in target)
            total = total + regression_loss(predict(z1), t2) + regression_loss(predict(z2), t1)
        return total.mean()

    at_once = saved_by(written_out)
    terms = model.terms(*views)
    assert len(terms) == 2
    in_turn = [saved_by(lambda term=term: model.term(*term)[0].sum()) for term in terms]
    assert max(in_turn) < 0.55 * at_once
    for (name, a), b in zip(model.named_parameters(), whole.parameters(), strict=True):
        if a.requires_grad:
            torch.testing.assert_close(a.grad, b.grad, atol=1e-9, rtol=1e-6, msg=name)
    for (name, a), b in zip(model.named_buffers(), whole.buffers(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-6, msg=name)


def test_backward_is_the_gradient_of_the_weighted_loss(multi, views):
    """What the training loop calls, against autograd through the whole of `forward`."""
    whole = copy.deepcopy(multi).double()
    multi.double()
    views = views.double()
    weights = torch.tensor([1.0, 0.5, 2.0])  # the loss is float32 throughout
    losses, spreads = multi.backward(*views, weights, None, lambda loss: 3 * loss)
    expected, expected_spreads = whole(*views)
    (3 * (expected @ weights)).backward()
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(spreads, expected_spreads)
    assert not losses.requires_grad
    for (name, a), b in zip(multi.named_parameters(), whole.parameters(), strict=True):
        if a.requires_grad:
            torch.testing.assert_close(a.grad, b.grad, atol=1e-6, rtol=1e-4, msg=name)


def test_each_output_has_a_loss_and_heads_of_its_own(multi, views):
    """Inner maps that torchvision's own hooks see, flattened, through heads written out here."""
    reference = with_plain_batchnorm(multi)

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


def test_classic_is_the_first_part_of_multi(multi, views):
    """The same seed gives the same encoder, so that the two kinds of training can be compared."""
    torch.manual_seed(0)
    classic = BYOL(Encoder(), 32, 16, multi.one_pass)
    for a, b in zip(classic.encoder.parameters(), multi.encoder.parameters(), strict=True):
        assert torch.equal(a, b)
    for part in (classic.projectors[0], classic.predictors[0], multi.projectors[0],
                 multi.predictors[0]):  # fmt: skip
        for p in part.parameters():
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


def test_target_starts_as_a_copy_and_normalises_by_its_own_batch(learner, views):
    for online, target in ((learner.encoder, learner.target_encoder),
                           (learner.projectors, learner.target_projectors)):  # fmt: skip
        for a, b in zip(online.parameters(), target.parameters(), strict=True):
            assert torch.equal(a, b)
            assert a.data_ptr() != b.data_ptr()
    learner.train()
    assert learner.target_encoder.bn1.training
    before = learner.target_encoder.bn1.running_mean.clone()
    learner(*views)
    assert not torch.equal(before, learner.target_encoder.bn1.running_mean)


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
    learner = multi
    with torch.no_grad():
        for p in learner.parameters():
            if p.requires_grad:
                p.add_(0.5)
    learner.update_target(0.0)
    for online, target in ((learner.encoder, learner.target_encoder),
                           (learner.projectors, learner.target_projectors)):  # fmt: skip
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


def test_a_few_steps_lower_the_loss_on_one_batch(learner, views):
    optimizer = torch.optim.SGD([p for p in learner.parameters() if p.requires_grad], lr=0.05)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss, _ = learner(*views)
        loss.backward()
        optimizer.step()
        learner.update_target(0.99)
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
