"""Frozen features and the linear head on them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from byol.augment import central_view
from byol.encoder import Encoder
from byol.learner import BYOL
from byol.memory import estimate_step_bytes
from byol.probe import Standardise, accuracy, extract_features

VIEW = {"image_size": 32, "mean": [0.5] * 3, "std": [0.25] * 3}
CPU = {"device": torch.device("cpu"), "amp": None}


@pytest.fixture
def photos():
    images = np.random.default_rng(0).integers(0, 256, (12, 3, 40, 40), dtype=np.uint8)
    return SimpleNamespace(images=images, sizes=np.full((12, 2), 40, dtype=np.int32))


def test_extraction_leaves_the_encoder_bit_for_bit_unchanged(photos):
    encoder = Encoder().train()
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    extract_features(encoder, photos, np.arange(12), **VIEW, **CPU)
    assert encoder.training
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_features_do_not_depend_on_the_batch(photos):
    encoder = Encoder()
    rows = np.array([3, 1, 7, 0, 11])
    together = extract_features(encoder, photos, rows, **VIEW, **CPU)
    apart = extract_features(encoder, photos, rows, **VIEW, **CPU, batch_size=2)
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-4)
    encoder.eval()
    view = central_view(torch.from_numpy(photos.images[[7]]), photos.sizes[[7]], *VIEW.values())
    torch.testing.assert_close(together[2], encoder(view)[0].detach(), atol=1e-5, rtol=1e-4)


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


def test_accuracy_counts():
    head = nn.Identity()
    scores = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    assert accuracy(head, scores, torch.tensor([0, 1, 1])) == pytest.approx(2 / 3)


def test_memory_estimate_grows_with_the_batch_and_leaves_the_model_alone():
    model = BYOL(Encoder(), 64, 32)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    small = estimate_step_bytes(model, 32, 8, "sgd", None)
    large = estimate_step_bytes(model, 32, 64, "sgd", None)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    weights = 4 * sum(p.numel() for p in model.parameters())
    assert weights < small < large
    # activations of a ResNet-18 at 32 px: about 1 MB an image and view in float32
    assert 0.5e6 < (large - small) / 56 / 2 < 4e6
