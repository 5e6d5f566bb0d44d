"""LARS against a plain loop, groups against their rule, every optimizer under a scaler."""

from math import inf

import pytest
import torch
from torch import nn

from byol.optim import DEFAULTS, LARS, build_optimizer, parameter_groups, set_lr


def reference_lars(p, grad, m, lr, decay, momentum, eta, adapt):
    """One parameter, plain Python, from the paper of LARS and the authors' exclusions."""
    if adapt:
        grad = grad + decay * p
        p_norm, g_norm = p.norm().item(), grad.norm().item()
        grad = grad * (eta * p_norm / g_norm if p_norm > 0 and g_norm > 0 else 1.0)
    m = momentum * m + grad
    return p - lr * m, m


def test_lars_equals_a_plain_loop():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    with torch.no_grad():
        model[2].weight.zero_()  # a norm of 0: ratio 1
        model[1].bias.fill_(0.5)  # else its gradient were 0 as well
    optimizer = build_optimizer("lars", parameter_groups(model), 0.1)
    expected = {n: (p.detach().clone(), torch.zeros_like(p)) for n, p in model.named_parameters()}
    for step in range(4):
        x = torch.randn(8, 5)
        optimizer.zero_grad()
        model(x).square().sum().backward()
        lr = 0.3 * (step + 1)
        set_lr(optimizer, lr)
        for name, p in model.named_parameters():
            old, m = expected[name]
            adapt = p.ndim > 1
            expected[name] = reference_lars(old, p.grad, m, lr, 0.1, 0.9, 1e-3, adapt)
        optimizer.step()
        for name, p in model.named_parameters():
            torch.testing.assert_close(p.detach(), expected[name][0], msg=name)


def test_biases_and_batchnorm_have_no_decay_and_no_adaptation():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    decayed, plain = parameter_groups(model)
    assert {id(p) for p in decayed["params"]} == {id(model[0].weight), id(model[3].weight)}
    assert {id(p) for p in plain["params"]} == {
        id(model[0].bias), id(model[1].weight), id(model[1].bias), id(model[3].bias)
    }  # fmt: skip
    assert plain["weight_decay"] == 0
    assert decayed["adapt"]
    assert not plain["adapt"]


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_encoder_has_a_rate_of_its_own(name):
    """At scale 0 not one bit of it changes, at 1 all is as without groups of its own."""

    def trained(own: bool, *scales: float) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), nn.Linear(4, 2))
        groups = parameter_groups(model, model[0] if own else None)
        assert sum(len(group["params"]) for group in groups) == 6
        optimizer = build_optimizer(name, groups, 0.1)
        for scale in scales:
            set_lr(optimizer, 0.1, scale)
            optimizer.zero_grad()
            model(torch.randn(8, 3)).square().sum().backward()
            optimizer.step()
        return [p.detach() for p in model.parameters()]

    begin, still, moved = trained(True), trained(True, 0, 0, 0), trained(True, 0, 0.5)
    assert all(torch.equal(a, b) for a, b in zip(begin[:4], still[:4], strict=True))
    assert not torch.equal(begin[4], still[4])
    assert not torch.equal(begin[0], moved[0])
    for a, b in zip(trained(True, 1, 1, 1), trained(False, 1, 1, 1), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", DEFAULTS)
def test_each_optimizer_lowers_a_loss_at_its_own_default(name):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(8, 16, bias=False), nn.ReLU(), nn.Linear(16, 1, bias=False)
    )  # biases take LARS's rate unscaled, which suits a normalised loss alone
    lr, decay = DEFAULTS[name]
    optimizer = build_optimizer(name, parameter_groups(model), decay)
    set_lr(optimizer, lr)
    x = torch.randn(64, 8)
    y = x[:, :1] * 2
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("name", DEFAULTS)
@pytest.mark.parametrize("factors", [(inf, 1.0), (1.0, 1.0, inf, 1.0), (inf, inf, 1.0, inf, 1.0)])
def test_an_overflow_under_a_gradient_scaler_leaves_no_trace(name, factors):
    """Steps that overflow are skipped; the others end where they do without them and no scaler."""
    weights = []
    for scaled in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))
        optimizer = build_optimizer(name, parameter_groups(model), 0.1, scaled)
        options = {"init_scale": 8.0, "growth_interval": 10**6}
        scaler = torch.amp.GradScaler("cpu", enabled=scaled, **options)
        x = torch.randn(16, 8)
        for step, factor in enumerate(factors):
            if factor == inf and not scaled:
                continue
            set_lr(optimizer, 0.1 * (step + 1))
            optimizer.zero_grad()
            scaler.scale(model(x).square().mean() * factor).backward()
            scaler.step(optimizer)
            scaler.update()
        weights.append([p.detach().clone() for p in model.parameters()])
    for scaled, plain in zip(*weights, strict=True):
        assert torch.isfinite(scaled).all()
        torch.testing.assert_close(scaled, plain)


def test_frozen_parameters_are_not_in_the_groups_and_state_round_trips():
    model = nn.Linear(3, 3)
    model.bias.requires_grad_(False)
    groups = parameter_groups(model)
    assert groups[1]["params"] == []
    optimizer = LARS(groups, lr=0.1)
    model(torch.randn(2, 3)).sum().backward()
    optimizer.step()
    other = LARS(parameter_groups(model), lr=0.1)
    other.load_state_dict(optimizer.state_dict())
    assert torch.equal(
        other.state[model.weight]["momentum"], optimizer.state[model.weight]["momentum"]
    )
