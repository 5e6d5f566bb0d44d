"""Frozen features and the linear head on them."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from photo_files import stored
from several import in_processes
from torch import nn

from byol.encoder import Encoder
from byol.errors import UserError
from byol.evaluation.features import (
    FeatureExtractor,
    RunningStandardise,
    Standardise,
    accuracy,
    share_features,
    shares_of,
)
from byol.hardware import distributed
from byol.views.augment import central_view

VIEW = {"image_size": 32, "mean": [0.5] * 3, "std": [0.25] * 3}
EXTRACT = FeatureExtractor(**VIEW, device=torch.device("cpu"), amp=None)


@pytest.fixture
def photos(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (12, 3, 40, 40), dtype=np.uint8)
    return SimpleNamespace(
        images=stored(tmp_path / "a.npy", images), sizes=np.full((12, 2), 40, dtype=np.int32)
    )


def test_extraction_leaves_the_encoder_bit_for_bit_unchanged(photos):
    encoder = Encoder().train()
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    EXTRACT(encoder, photos, np.arange(12))
    assert encoder.training
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_features_do_not_depend_on_the_batch(photos, monkeypatch):
    encoder = Encoder()
    rows = np.array([3, 1, 7, 0, 11])
    together = EXTRACT(encoder, photos, rows)
    monkeypatch.setattr("byol.evaluation.features.BATCH", 2)
    torch.testing.assert_close(together, EXTRACT(encoder, photos, rows), atol=1e-5, rtol=1e-4)
    encoder.eval()
    view = central_view(torch.from_numpy(photos.images[[7]]), photos.sizes[[7]], *VIEW.values())
    torch.testing.assert_close(together[2], encoder(view)[0].detach(), atol=1e-5, rtol=1e-4)


def test_inner_blocks_stand_behind_the_representation(photos):
    encoder = Encoder()
    blocks = {"layer3.0": 1, "layer1.0": 2}
    extract = FeatureExtractor(**VIEW, device=torch.device("cpu"), amp=None, inner_blocks=blocks)
    features = extract(encoder, photos, np.arange(3))
    assert features.shape == (3, 512 + 256 + 64 * 4)
    alone = EXTRACT(encoder, photos, np.arange(3))
    torch.testing.assert_close(features[:, :512], alone, atol=1e-5, rtol=1e-4)


def test_features_that_are_not_finite_are_one_sentence(photos):
    """Finite weights whose sums are not."""
    encoder = Encoder()
    nn.init.constant_(encoder.bn1.weight, 3e38)
    with pytest.raises(UserError, match="the encoder gives test images that are not finite numb"):
        EXTRACT(encoder, photos, np.arange(3), what="test images")


def extract_shared(encoder, photos, all_rows):
    """What a process of several gives: the first one features, the others nothing."""
    found = []
    if share_features(photos, torch.device("cpu"), None):
        found = [EXTRACT(encoder, photos, rows) for rows in all_rows]
    distributed.leave()
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="the processes are forked")
@pytest.mark.parametrize("count", [2, 3, 8])
def test_several_processes_give_the_features_of_one_to_the_bit(photos, monkeypatch, count):
    """Also of fewer photos than processes, with an encoder that learns between two calls."""
    monkeypatch.setattr("byol.evaluation.features.BATCH", 2)
    photos.fingerprint, photos.shape = "of these", (40, 40)
    of_one = FeatureExtractor.of_rows

    def seldom(self, encoder, photos, rows, what):
        assert len(rows) <= 2 * -(-6 // count) or distributed.count() == 1  # a share of 12
        return of_one(self, encoder, photos, rows, what)

    monkeypatch.setattr(FeatureExtractor, "of_rows", seldom)
    all_rows = [np.arange(12), np.arange(11)[::-1], np.array([5, 0, 3]), np.array([7])]
    encoder = Encoder().train()
    expected = [EXTRACT(encoder, photos, rows) for rows in all_rows]
    first, *others = in_processes(count, extract_shared, encoder, photos, all_rows)
    assert all(map(torch.equal, first, expected))
    assert len(first) == len(expected)
    assert others == [[]] * (count - 1)


def test_shares_are_whole_batches_in_the_order_of_the_rows(monkeypatch):
    monkeypatch.setattr("byol.evaluation.features.BATCH", 4)
    for variable in distributed.VARIABLES:
        monkeypatch.setenv(variable, "3")
    for number, lengths in ((0, [0, 0, 0]), (3, [3, 0, 0]), (9, [4, 4, 1]), (17, [8, 8, 1])):
        shares = shares_of(np.arange(number))
        assert [len(share) for share in shares] == lengths
        assert np.array_equal(np.concatenate(shares), np.arange(number))


def test_standardised_features_have_mean_0_and_deviation_1_and_fold_into_the_head():
    features = torch.randn(200, 6) * torch.tensor([1e-3, 1, 10, 100, 1, 1]) + 5
    features[:, 5] = 2.0  # says nothing, must not blow up
    standardise = Standardise(features, [6])
    x = standardise(features)
    torch.testing.assert_close(x[:, 1:5].mean(0), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(x[:, 1:5].std(0), torch.ones(4), atol=1e-4, rtol=0)
    assert x.abs().max() < 10
    head = nn.Linear(6, 3)
    new = torch.randn(9, 6) + 5
    torch.testing.assert_close(
        standardise.fold(head)(new), head(standardise(new)), atol=1e-2, rtol=1e-3
    )


@pytest.mark.parametrize("kind", [Standardise, RunningStandardise])
def test_no_part_drowns_the_others(kind):
    """Four features at a thousand times the scale of eight and of two: the same total variance."""
    scale = torch.tensor([1e3] * 4 + [1.0] * 8 + [0.1] * 2)
    features = torch.randn(500, 14) * scale + 7
    standardise = kind(features, [4, 8, 2]).train()
    totals = [part.var(0).sum().item() for part in standardise(features).split([4, 8, 2], dim=1)]
    assert totals == pytest.approx([4, 4, 4], rel=0.01)

    head = nn.Linear(14, 3)
    new = torch.randn(9, 14) * scale + 7
    standardise.eval()
    expected = head(standardise(new))
    torch.testing.assert_close(standardise.fold(head)(new), expected, atol=1e-3, rtol=1e-3)
    assert expected.std() > 0.1


def test_running_standardise_follows_the_features():
    first, later = torch.randn(300, 5), 50 * torch.randn(300, 5) + 9
    standardise = RunningStandardise(first, [5]).train()
    for _ in range(100):
        standardise(later)
    x = standardise.eval()(later)
    torch.testing.assert_close(x.mean(0), torch.zeros(5), atol=1e-2, rtol=0)
    torch.testing.assert_close(x.std(0), torch.ones(5), atol=1e-2, rtol=0)


def test_accuracy_counts():
    head = nn.Identity()
    scores = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    assert accuracy(head, scores, torch.tensor([0, 1, 1])) == pytest.approx(2 / 3)
