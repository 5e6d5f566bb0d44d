"""Frozen features and the linear head on them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from photo_files import stored
from torch import nn

from byol.encoder import Encoder
from byol.errors import UserError
from byol.evaluation.features import FeatureExtractor, RunningStandardise, Standardise, accuracy
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
