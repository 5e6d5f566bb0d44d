"""`hubconf.py`: what torch.hub loads is torchvision's network, and timm's, with our weights."""

import ast
import dataclasses
import importlib.util
import sys

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from test_layout import imported, read_modules

import hubconf
from byol.config import ClassifierConfig, PretrainConfig
from byol.encoder import Encoder
from byol.errors import UserError
from byol.evaluation.classifier import Classifier
from byol.run import checkpoint
from byol.views.augment import central_view
from data.decode import decode

SIDE, MEAN, STD = 32, [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """byol.pt, and a classifier.pt with another encoder; both have seen a batch."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    encoders = [Encoder(), Encoder()]
    with torch.no_grad():
        for encoder in encoders:
            encoder.train()(torch.randn(4, 3, SIDE, SIDE))
    config = PretrainConfig(image_size=SIDE, view_size=None, mean=MEAN, std=STD)
    checkpoint.save_encoder(folder / "byol.pt", encoders[0], config, 3, "0")
    settings = {key: getattr(config, key) for key in checkpoint.FROM_PRETRAINED}
    classifier = Classifier(encoders[1], {}, ["cat", "dog", "owl"], settings)
    classifier.save(folder / "classifier.pt", dataclasses.asdict(ClassifierConfig()))
    return folder


@pytest.fixture
def load(root, files):
    """Do what the README of a hub says: `torch.hub.load` from a folder."""
    return lambda entry, name: torch.hub.load(
        str(root), entry, weights=str(files / name), source="local"
    )


def weights_of(path) -> dict:
    return torch.load(path, weights_only=True)["encoder"]


def views() -> torch.Tensor:
    return torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["byol.pt", "classifier.pt"])
def test_the_encoder_is_torchvisions_with_our_weights(load, files, name):
    encoder = load("byol", name)
    assert not encoder.training
    assert (encoder.image_size, encoder.mean, encoder.std) == (SIDE, MEAN, STD)
    model = torchvision.models.resnet18()
    lacking = model.load_state_dict(weights_of(files / name), strict=False)
    assert lacking == (["fc.weight", "fc.bias"], [])
    model.fc = torch.nn.Identity()
    with torch.no_grad():
        features = encoder(views())
        torch.testing.assert_close(features, model.eval()(views()), atol=1e-5, rtol=1e-5)
    assert features.shape == (3, 512)


def test_a_classifier_is_torchvisions_with_our_head(load, files):
    classifier = load("classifier", "classifier.pt")
    assert (classifier.classes, classifier.training) == (["cat", "dog", "owl"], False)
    content = torch.load(files / "classifier.pt", weights_only=True)
    model = torchvision.models.resnet18(num_classes=3)
    head = {f"fc.{name}": value for name, value in content["head"].items()}
    model.load_state_dict(content["encoder"] | head)
    with torch.no_grad():
        scores = classifier(views())
        torch.testing.assert_close(scores, model.eval()(views()), atol=1e-5, rtol=1e-5)


def test_the_weights_fit_timms_network(load, files):
    timm = pytest.importorskip("timm")
    model = timm.create_model("resnet18", pretrained=False, num_classes=0)
    model.load_state_dict(weights_of(files / "byol.pt"))  # all of them, and no other
    with torch.no_grad():
        features, want = model.eval()(views()), load("byol", "byol.pt")(views())
    torch.testing.assert_close(features, want, atol=1e-5, rtol=1e-5)


def test_the_transform_shows_what_the_project_shows(load, tmp_path):
    """Up to the rounding of PIL to whole grey levels, of a photo that is stored as it is."""
    draw = np.random.default_rng(0)
    coarse = Image.fromarray(draw.integers(0, 256, (9, 9, 3)).astype(np.uint8))
    photo = coarse.resize((40, 40), Image.Resampling.BICUBIC)
    photo.save(tmp_path / "photo.png")
    pixels, height, width = decode((tmp_path / "photo.png").read_bytes(), 40)
    images, sizes = torch.from_numpy(pixels)[None], np.array([[height, width]])
    want = central_view(images, sizes, SIDE, MEAN, STD)[0]
    got = load("transform", "byol.pt")(photo)
    assert got.shape == (3, SIDE, SIDE)
    deviation = torch.tensor(STD).view(3, 1, 1)
    assert ((got - want) * deviation * 255).abs().max() <= 1.5


def test_the_transform_of_an_encoder_that_sees_grey(files):
    content = torch.load(files / "byol.pt", weights_only=True)
    torch.save(content | {"channels": "grey"}, files / "grey.pt")
    photo = Image.new("RGB", (40, 40), (255, 128, 0))
    for name, channels in (("byol.pt", 3), ("grey.pt", 1)):
        seen = hubconf.transform(str(files / name))(photo)
        shown = seen * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
        assert len({round(value, 3) for value in shown[:, 0, 0].tolist()}) == channels


def test_what_is_no_weights_is_one_sentence(files):
    (files / "junk.pt").write_text("junk")
    for entry in (hubconf.byol, hubconf.classifier, hubconf.transform):
        with pytest.raises(UserError, match=r"junk\.pt cannot be read"):
            entry(str(files / "junk.pt"))
    with pytest.raises(UserError, match=r"byol\.pt is an encoder"):
        hubconf.classifier(str(files / "byol.pt"))


def test_the_dependencies_are_what_the_entry_points_import(root):
    modules = read_modules(root)
    todo, seen, others = ["hubconf"], set(), set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        todo += imported(name, modules[name], modules)
        for node in ast.walk(ast.parse(modules[name].read_text())):
            if isinstance(node, ast.Import):
                others |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                others.add(node.module.partition(".")[0])
    others -= sys.stdlib_module_names | {"byol", "data", "tensorboard"}
    assert others == set(hubconf.dependencies)
    assert all(importlib.util.find_spec(name) for name in hubconf.dependencies)
