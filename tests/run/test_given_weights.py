"""Weights to begin with: torchvision's in every form that files have, and what is none of them."""

from pathlib import Path

import pytest
import torch
from torchvision.models import get_model_weights, resnet18, resnet34, resnet50

from byol.config import ClassifierConfig, PretrainConfig
from byol.encoder import Encoder
from byol.errors import UserError
from byol.run import checkpoint
from byol.run.start import read_fitting_start, read_start


@pytest.fixture(scope="module")
def model():
    """torchvision's ResNet-18 of random weights, with statistics as if it had been trained."""
    torch.manual_seed(3)
    network = resnet18()
    for name, buffer in network.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    return network.eval()


@pytest.fixture
def start(in_tmp):
    """Save `content` and read it with the settings."""

    def read(content, name="weights.pth", config_class=PretrainConfig, **settings):
        torch.save(content, name)
        return read_fitting_start(config_class(init=name, **settings))

    return read


def prefixed(weights, prefix="module."):
    return {f"{prefix}{key}": value for key, value in weights.items()}


FORMS = {
    "plain": lambda weights: weights,
    "of DataParallel": prefixed,
    "state_dict": lambda weights: {"state_dict": weights, "epoch": 3},
    "model": lambda weights: {"model": prefixed(weights), "optimizer": {"state": {}}},
    "without fc": lambda w: {k: v for k, v in w.items() if not k.startswith("fc.")},
    "before PyTorch 0.4.1": lambda w: {k: v for k, v in w.items() if "num_batches" not in k},
    "of another head": lambda w: {**w, "fc.weight": torch.zeros(7, 512)},
    "float64": lambda w: {k: v.double() if v.is_floating_point() else v for k, v in w.items()},
}


@pytest.mark.parametrize("form", FORMS)
def test_an_encoder_of_torchvisions_weights_computes_what_torchvision_computes(start, model, form):
    read = start(FORMS[form](model.state_dict()))
    encoder = checkpoint.load_encoder(read, "weights.pth").eval()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = model.fc(encoder(images))
        torch.testing.assert_close(logits, model(images), rtol=1e-4, atol=1e-5)
    assert read["config"] == {}
    if form != "before PyTorch 0.4.1":  # which has lost how many batches there were
        assert checkpoint.start_fingerprint(read) == checkpoint.fingerprint_of(
            {k: v for k, v in model.state_dict().items() if not k.startswith("fc.")}
        )


def test_random_weights_are_no_file():
    assert read_start(PretrainConfig()) is None
    assert checkpoint.start_fingerprint(None) == "random"


@pytest.fixture
def hub(in_tmp, monkeypatch) -> Path:
    """torch.hub's folder, empty, and no network."""
    monkeypatch.setenv("TORCH_HOME", str(in_tmp / "hub"))
    for proxy in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")
    return in_tmp / "hub" / "hub" / "checkpoints"


def file_of(arch: str) -> str:
    return get_model_weights(arch).DEFAULT.url.rpartition("/")[2]


def test_imagenet_weights_lie_where_torchvision_puts_them(hub, model):
    hub.mkdir(parents=True)
    torch.save(model.state_dict(), hub / file_of("resnet18"))
    read = read_start(ClassifierConfig(init="imagenet"))
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in read["encoder"].items())
    assert len(read["encoder"]) == len(model.state_dict()) - 2
    with pytest.raises(UserError, match=r"ImageNet weights is a resnet18 .*; give --arch resnet18"):
        read_start(ClassifierConfig(init="imagenet", stem="cifar"))


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_without_a_network_one_sentence_says_which_file_belongs_where(hub, arch):
    with pytest.raises(UserError) as error:
        read_start(ClassifierConfig(init="imagenet", arch=arch))
    told = str(error.value)
    assert "could not download" in told
    assert told.endswith(f"/{file_of(arch)} at {hub / file_of(arch)}")
    assert "\n" not in told
    assert not list(hub.glob("*"))


def test_a_damaged_download_is_told(hub):
    hub.mkdir(parents=True)
    (hub / file_of("resnet18")).write_bytes(b"half")
    with pytest.raises(UserError, match=r"resnet18-\w+\.pth cannot be read: remove it"):
        read_start(ClassifierConfig(init="imagenet"))


def without(weights, key):
    return {k: v for k, v in weights.items() if k != key}


def test_another_encoder_is_told_with_the_flags_that_fit(start):
    for build, arch in ((resnet34, "resnet34"), (resnet50, "resnet50")):
        with pytest.raises(UserError, match=f"give --arch {arch} --stem imagenet$"):
            start(build().state_dict())
    with pytest.raises(UserError, match=r"not a resnet18 .*give --arch resnet18 --stem cifar$"):
        start(Encoder("resnet18", "cifar").state_dict())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda w: without(w, "layer4.1.conv2.weight"), r"lacks layer4\.1\.conv2\.weight;"),
        (lambda w: {**w, "layer5.0.conv1.weight": w["conv1.weight"], "x": w["conv1.weight"]},
         r"holds layer5\.0\.conv1\.weight and 1 more"),
        (lambda w: {**w, "conv1.weight": w["conv1.weight"][:, :1]},
         r"conv1\.weight has the shape \(64, 1, 7, 7\) in place of \(64, 3, 7, 7\)"),
        (lambda w: {**w, "bn1.bias": w["bn1.bias"] / 0}, "not finite"),
        (lambda w: {**w, "bn1.bias": w["bn1.bias"].double() + 1e300}, "not finite"),
        (lambda w: {**w, "bn1.bias": w["bn1.bias"].to(torch.int8)}, r"bn1\.bias holds no plain"),
        (lambda w: {**w, "bn1.bias": w["bn1.bias"].to_sparse()}, r"bn1\.bias holds no plain"),
        (lambda w: {**w, "bn1.bias": w["bn1.bias"].to("meta")}, r"bn1\.bias holds no plain"),
        (lambda w: {f"backbone.{k}": v for k, v in w.items()}, r"lacks conv1\.weight and"),
        (lambda w: list(w.values()), "no weights of a ResNet"),
        (lambda w: {"state_dict": {}}, "no weights of a ResNet"),
        (lambda w: {"kind": ["byol-encoder"], **w}, "no weights of a ResNet"),
        (lambda w: {1: w["bn1.bias"]}, "no weights of a ResNet"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(narrow_encoder, start, change, told):
    weights = {**Encoder().state_dict(), "fc.weight": torch.zeros(7, 64)}
    with pytest.raises(UserError, match=told) as error:
        start(change(weights))
    assert "weights.pth" in str(error.value)


def test_code_in_a_file_does_not_run(in_tmp):
    class Evil:
        def __reduce__(self):
            return (open, (str(in_tmp / "ran"), "w"))

    torch.save({"state_dict": {"conv1.weight": Evil()}}, "evil.pth")
    for name, told in (("evil.pth", "more than weights"), ("none.pth", "there is no checkpoint")):
        with pytest.raises(UserError, match=told):
            read_start(PretrainConfig(init=name))
    assert not (in_tmp / "ran").exists()


def test_a_file_of_this_project_says_what_its_encoder_is(in_tmp):
    config = PretrainConfig(arch="resnet34", channels="grey")
    checkpoint.save_encoder("byol.pt", Encoder("resnet34"), config, 7, "0", "a run")
    read = read_start(ClassifierConfig(init="byol.pt"))  # a classifier takes it as it is
    assert (read["arch"], read["channels"], read["step"]) == ("resnet34", "grey", 7)
    with pytest.raises(UserError, match=r"byol\.pt is a resnet34 .*give --arch resnet34"):
        read_fitting_start(PretrainConfig(init="byol.pt"))
    assert read_fitting_start(PretrainConfig(init="byol.pt", arch="resnet34"))["step"] == 7
