"""Whitened targets against numpy and closed forms."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from narrow_encoder import narrow

from byol.encoder import Encoder
from byol.hardware.one_pass import take_one_pass
from byol.method import BYOL
from byol.whitening import MOMENTUM, Whitening

BLOCKS = {"layer3.0": 2, "layer2.0": 4}


def draw_skewed(count, seed, dim=6):
    """Rows whose variance lies nearly all in one direction, off the axes and off the origin."""
    generator = np.random.default_rng(seed)
    mixing = np.linalg.qr(np.random.default_rng(0).normal(size=(dim, dim)))[0]
    rows = generator.normal(size=(count, dim)) * [1, 0.3, 0.1, 0.1, 0.03, 0.03] @ mixing + 0.8
    return torch.tensor(rows, dtype=torch.float32)


def to_unit(rows):
    rows = rows.double().numpy()
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_nothing_but_the_length_changes_before_the_first_refresh():
    z = draw_skewed(5, 1)
    [[whitened]] = Whitening(1, 6, 0.01)([z])
    torch.testing.assert_close(whitened, F.normalize(z, dim=1))


@pytest.mark.parametrize("shrinkage", [1e-4, 0.01, 1.0])
def test_whitened_rows_are_those_of_numpy(shrinkage):
    """A Cholesky factor of the covariance with part of its trace on the diagonal, undone."""
    first, second = draw_skewed(300, 1), draw_skewed(300, 2)
    whitening = Whitening(1, 6, shrinkage)
    whitening([first], [second])
    whitening.refresh()
    [[whitened]] = whitening([first])
    rows = np.concatenate([to_unit(first), to_unit(second)])
    covariance = np.cov(rows.T, bias=True)
    shrunk = covariance + shrinkage * np.trace(covariance) * np.eye(6)
    expected = (to_unit(first) - rows.mean(0)) @ np.linalg.inv(np.linalg.cholesky(shrunk)).T
    np.testing.assert_allclose(whitened.numpy(), expected, rtol=2e-3, atol=2e-3)


def test_all_directions_come_out_alike_unless_they_are_below_the_shrinkage():
    z = draw_skewed(4000, 3)
    before = np.linalg.eigvalsh(np.cov(to_unit(z).T))
    assert before[-1] > 400 * before[0]
    after = {}
    for shrinkage in (1e-6, 0.01):
        whitening = Whitening(1, 6, shrinkage)
        whitening([z])
        whitening.refresh()
        [[whitened]] = whitening([z])
        after[shrinkage] = np.linalg.eigvalsh(np.cov(whitened.double().numpy().T))
    np.testing.assert_allclose(after[1e-6], 1, atol=0.05)
    part = before / before.sum()
    np.testing.assert_allclose(after[0.01], part / (part + 0.01), atol=0.01)


def test_statistics_are_the_mean_of_few_batches_and_then_move_slowly():
    whitening = Whitening(1, 6, 0.01)
    batches = [draw_skewed(50, seed) for seed in range(150)]
    for z in batches[:100]:
        whitening([z])
    means = np.array([to_unit(z).mean(0) for z in batches])
    np.testing.assert_allclose(whitening.moments[0, 0].numpy(), means[:100].mean(0), atol=1e-5)
    expected = means[:100].mean(0)
    for z, mean in zip(batches[100:], means[100:], strict=True):
        whitening([z])
        expected = (1 - MOMENTUM) * expected + MOMENTUM * mean
    np.testing.assert_allclose(whitening.moments[0, 0].numpy(), expected, atol=1e-5)


def test_a_collapsed_target_stays_finite():
    whitening = Whitening(2, 6, 0.01)
    same = torch.ones(8, 6)
    for _ in range(3):
        results = whitening([same, torch.zeros(8, 6)], [same, same])
        whitening.refresh()
    assert all(torch.isfinite(z).all() for view in results for z in view)
    assert torch.isfinite(whitening.matrix).all()


@pytest.fixture
def multi(monkeypatch):
    narrow(monkeypatch)
    torch.manual_seed(0)
    return BYOL(Encoder(), 32, 16, BLOCKS, whitening=0.01)


@pytest.fixture
def views():
    return torch.randn(2, 8, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_the_loss_is_that_against_whitened_targets_of_the_other_view(multi, views):
    weights = torch.ones(3)
    multi.backward(*views, weights)
    multi.update_target(1.0)  # the target stays, its statistics are taken over
    reference = copy.deepcopy(multi)
    losses, _ = multi(*views)
    targets = [reference.target_projections(view) for view in views]
    online = [reference.encoder.outputs(view, BLOCKS) for view in views]
    for number, name in enumerate(reference.outputs):
        rows = np.concatenate([to_unit(of_view[number]) for of_view in targets])
        covariance = np.cov(rows.T, bias=True)
        factor = np.linalg.cholesky(covariance + 0.01 * np.trace(covariance) * np.eye(16))
        expected = 0.0
        for view, other in ((0, 1), (1, 0)):
            target = np.linalg.solve(factor, (to_unit(targets[other][number]) - rows.mean(0)).T).T
            head = reference.projectors[number], reference.predictors[number]
            prediction = head[1](head[0](online[view][name])).detach()
            expected += 2 - 2 * (to_unit(prediction) * to_unit(torch.tensor(target))).sum(1).mean()
        assert losses[number].item() == pytest.approx(expected, abs=2e-3)


def test_one_pass_for_both_views_whitens_as_two_do(multi, views):
    one = copy.deepcopy(multi)
    take_one_pass(one)
    weights = torch.tensor([1.0, 0.5, 2.0])
    for _ in range(2):
        two_losses, _ = multi.backward(*views, weights)
        one_losses, _ = one.backward(*views, weights)
        torch.testing.assert_close(one_losses, two_losses, atol=1e-4, rtol=1e-4)
        for model in (multi, one):
            model.update_target(0.9)
    torch.testing.assert_close(one.whitening.moments, multi.whitening.moments)
    [moments] = one.statistics
    assert moments is one.whitening.moments


def test_without_whitening_there_is_nothing_of_it(monkeypatch):
    narrow(monkeypatch)
    model = BYOL(Encoder(), 32, 16)
    assert model.whitening is None
    assert model.statistics == []
    assert not [name for name in model.state_dict() if "whitening" in name]
