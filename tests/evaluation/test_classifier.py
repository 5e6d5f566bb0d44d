"""A classifier is saved, loaded and predicts; a frozen encoder stays as it is, bit for bit."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from photo_files import stored
from torch import nn
from torchvision.transforms import functional as reference

from byol.encoder import Encoder
from byol.errors import UserError
from byol.evaluation.classifier import MOST_TO_STANDARDISE, Classifier, some_rows
from byol.hardware.step import prepare
from byol.optim import build_optimizer, set_lr
from byol.run import checkpoint
from byol.views.augment import central_view

CPU = torch.device("cpu")
SETTINGS = {"arch": "resnet18", "stem": "imagenet", "image_size": 32,
            "mean": [0.4, 0.5, 0.6], "std": [0.3, 0.2, 0.25], "channels": "colour"}  # fmt: skip
CLASSES = ["cat", "dog", "other"]
BLOCKS = {"layer3.0": 1, "layer2.0": 2}


@pytest.fixture(autouse=True)
def _narrow(narrow_encoder):
    pass


@pytest.fixture
def photos(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (12, 3, 40, 40), dtype=np.uint8)
    sizes = np.full((12, 2), 40, dtype=np.int32)
    return SimpleNamespace(images=stored(tmp_path / "a.npy", images), sizes=sizes)


def build(blocks=BLOCKS) -> Classifier:
    torch.manual_seed(0)
    return Classifier(Encoder(), blocks, CLASSES, SETTINGS)


def views_of(photos, rows) -> torch.Tensor:
    viewing = SETTINGS["image_size"], SETTINGS["mean"], SETTINGS["std"]
    return central_view(torch.from_numpy(photos.images[rows]), photos.sizes[rows], *viewing)


def trained(photos, kind: str, blocks=BLOCKS) -> Classifier:
    """A classifier after five steps: "frozen", or "full"."""
    classifier, rows = prepare(build(blocks), CPU), np.arange(12)
    extract = classifier.extractor(CPU, None)
    features = extract(classifier.encoder, photos, rows)
    if kind == "frozen":
        features = classifier.freeze(features)
    elif blocks:
        classifier.standardise_while_training(features)
    optimizer = build_optimizer("sgd", classifier.groups(1.0), 0.0)
    set_lr(optimizer, 0.1)
    classifier.train()
    truth = torch.arange(12) % 3
    for _ in range(5):
        views = views_of(photos, rows)
        scores = classifier.head(features) if kind == "frozen" else classifier(views)
        optimizer.zero_grad()
        F.cross_entropy(scores, truth).backward()
        optimizer.step()
    return classifier


def test_a_classifier_of_photos_in_grey_sees_torchvisions_grayscale(photos, tmp_path):
    torch.manual_seed(0)
    Classifier(Encoder(), {}, CLASSES, {**SETTINGS, "channels": "grey"}).save(tmp_path / "c.pt", {})
    classifier, rows = Classifier.load(tmp_path / "c.pt", CPU), np.arange(12)
    views = central_view(torch.from_numpy(photos.images[rows]), photos.sizes, 32, [0] * 3, [1] * 3)
    views = reference.rgb_to_grayscale(views, 3)
    with torch.no_grad():
        scores = classifier(reference.normalize(views, SETTINGS["mean"], SETTINGS["std"]))
    found = classifier.predict(photos, rows, CPU, None)
    torch.testing.assert_close(found, scores.softmax(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("blocks", [{}, BLOCKS], ids=["avgpool", "combined"])
@pytest.mark.parametrize("kind", ["frozen", "full"])
def test_what_is_saved_and_loaded_predicts_the_same(photos, tmp_path, kind, blocks):
    classifier = trained(photos, kind, blocks)
    rows = np.array([7, 1, 4])
    before = classifier.predict(photos, rows, CPU, None)
    classifier.save(tmp_path / "c.pt", {"labels": 12})
    loaded = Classifier.load(tmp_path / "c.pt", CPU)
    after = loaded.predict(photos, rows, CPU, None)
    assert torch.equal(before, after)
    assert before.shape == (3, 3)
    torch.testing.assert_close(before.sum(1), torch.ones(3))
    assert before.std() > 1e-3
    assert not loaded.training
    assert (loaded.classes, loaded.settings) == (CLASSES, SETTINGS)
    assert loaded.inner_blocks == blocks

    # by hand: the encoder in evaluation mode, the scaling, the head
    classifier.eval()
    outputs = classifier.encoder.outputs(views_of(photos, rows), blocks).values()
    features = torch.cat(list(outputs), dim=1)
    if classifier.scaling is not None:
        features = classifier.scaling(features)
    expected = F.softmax(classifier.head(features), dim=1)
    torch.testing.assert_close(before, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        loaded(views_of(photos, rows)).softmax(1), expected, atol=1e-5, rtol=1e-4
    )


def test_scores_of_the_loaded_are_those_of_plain_torch(photos, tmp_path):
    """The file holds what the README says: an encoder, and one linear layer on raw features."""
    trained(photos, "frozen", {}).save(tmp_path / "c.pt", {})
    content = torch.load(tmp_path / "c.pt", weights_only=True)
    encoder = Encoder().eval()
    encoder.load_state_dict(content["encoder"])
    weight, bias = content["head"]["weight"], content["head"]["bias"]
    scores = encoder(views_of(photos, np.arange(4))) @ weight.T + bias
    classifier = Classifier.load(tmp_path / "c.pt", CPU)
    predicted = classifier.predict(photos, np.arange(4), CPU, None)
    torch.testing.assert_close(predicted, scores.softmax(1), atol=1e-5, rtol=1e-4)


def test_a_frozen_encoder_stays_bit_for_bit(photos):
    before = {key: value.clone() for key, value in build().encoder.state_dict().items()}
    classifier = trained(photos, "frozen")
    assert classifier.frozen
    assert classifier.training
    assert not classifier.encoder.training
    classifier(views_of(photos, np.arange(4)))
    for key, value in classifier.encoder.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert list(classifier.learning.keys()) == ["head"]
    assert sum(len(group["params"]) for group in classifier.groups(0.1)) == 2


def test_a_full_model_learns_at_two_rates(photos):
    classifier = trained(photos, "full")
    assert not torch.equal(classifier.encoder.conv1.weight, build().encoder.conv1.weight)
    assert classifier.encoder.training
    head, head_bias, encoder, encoder_biases = classifier.groups(0.25)
    assert [group.get("lr_scale", 1.0) for group in (head, head_bias)] == [1.0, 1.0]
    assert [group["lr_scale"] for group in (encoder, encoder_biases)] == [0.25, 0.25]
    assert set(classifier.learning.keys()) == {"head", "encoder", "standardise"}
    assert set(trained(photos, "full", {}).learning.keys()) == {"head", "encoder"}


def test_the_scaling_starts_from_some_images_spread_evenly():
    rows = np.arange(100, 100 + 2 * MOST_TO_STANDARDISE + 1)
    some = some_rows(rows)
    assert MOST_TO_STANDARDISE / 2 < len(some) <= MOST_TO_STANDARDISE
    assert set(np.diff(some)) == {3}
    assert np.array_equal(some_rows(rows[:10]), rows[:10])


# ---- files that are no classifier


def saved(path, **changes) -> dict:
    """The content of a classifier's file, with changes; written to `path`."""
    build().save(path, {})
    content = torch.load(path, weights_only=True)
    kind = content.pop("kind")
    content |= changes
    content = {key: value for key, value in content.items() if value is not None}
    checkpoint.save(path, kind, content)
    return content


def without(name: str) -> dict:
    weights = checkpoint.encoder_weights(build().encoder)
    del weights[name]
    return weights


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (lambda: {"head": {"weight": torch.zeros(3, 8), "bias": torch.zeros(3)}}, "does not fit"),
        (lambda: {"head": {"weight": torch.zeros(3, 160)}}, "its head does not fit"),
        (lambda: {"head": [1.0]}, "its head does not fit"),
        (lambda: {"head": None}, "lacks head"),
        (lambda: {"classes": ["cat"]}, "its head does not fit"),
        (lambda: {"classes": 3}, "classes must be a list of names"),
        (lambda: {"classes": None}, "lacks classes"),
        (lambda: {"inner_blocks": {"layer9.0": 1}}, "no block 'layer9.0'"),
        (lambda: {"inner_blocks": {"layer3.0": 4}}, "inner_grids 4 of layer3.0"),
        (lambda: {"inner_blocks": None}, "c.pt is incomplete"),
        (lambda: {"encoder": without("conv1.weight")}, "its encoder does not load"),
        (lambda: {"encoder": 1}, "its encoder does not load"),
        (lambda: {"arch": "resnet19"}, "arch must be one of"),
        (lambda: {"mean": None}, "lacks mean"),
    ],
)
def test_a_damaged_classifier_is_one_sentence(tmp_path, changes, words):
    path = tmp_path / "c.pt"
    saved(path, **changes())
    with pytest.raises(UserError, match=words) as error:
        Classifier.load(path, CPU)
    assert "c.pt" in str(error.value)
    assert "\n" not in str(error.value)


def test_other_files_are_told_apart_and_run_nothing(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"kind": checkpoint.CLASSIFIER, "head": Evil()}, tmp_path / "evil.pt")
    (tmp_path / "junk.pt").write_bytes(b"junk")
    checkpoint.save(tmp_path / "encoder.pt", checkpoint.ENCODER, {})
    saved(tmp_path / "whole.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    for name, words in (
        ("none.pt", "there is no checkpoint"),
        ("evil.pt", "it holds more than weights"),
        ("junk.pt", "it is damaged"),
        ("cut.pt", "it is damaged"),
        ("encoder.pt", "this needs a classifier that train_classifier.py wrote"),
    ):
        with pytest.raises(UserError, match=rf"{name}.*{words}|{words}.*{name}"):
            Classifier.load(tmp_path / name, CPU)
    assert not (tmp_path / "ran").exists()
    Classifier.load(tmp_path / "whole.pt", CPU)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    encoder = build().encoder
    nn.init.constant_(encoder.bn1.weight, float("nan"))
    saved(tmp_path / "c.pt", encoder=checkpoint.encoder_weights(encoder))
    with pytest.raises(UserError, match=r"c\.pt holds weights that are not finite"):
        Classifier.load(tmp_path / "c.pt", CPU)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_size": "32"}, "image_size .* must be a whole number"),
        ({"image_size": 0}, "image_size must be at least 8"),
        ({"image_size": 10**9}, "image_size must be at most 1024"),
        ({"mean": "x"}, "mean .* must be a list of numbers"),
        ({"std": [0.0, 0.0, 0.0]}, "std must be above 0"),
        ({"classes": "ab"}, "classes must be a list of names"),
        ({"classes": [1, 2, 3]}, "classes must be a list of names"),
        ({"inner_blocks": {"layer3.0": -1, "layer2.0": 2}}, "inner_grids must be at least 1"),
        ({"inner_blocks": ["layer3.0"]}, "inner_blocks must be names with their grids"),
    ],
)
def test_settings_that_cannot_be_are_one_sentence(tmp_path, changes, words):
    path = tmp_path / "classifier.pt"
    build().save(path, {})
    content = torch.load(path, weights_only=True)
    del content["kind"]
    checkpoint.save(path, checkpoint.CLASSIFIER, {**content, **changes})
    with pytest.raises(UserError, match=rf"classifier\.pt is no classifier that can be: .*{words}"):
        Classifier.load(path, CPU)


def test_a_head_that_is_not_finite_is_refused(tmp_path):
    path = tmp_path / "classifier.pt"
    classifier = build()
    torch.nn.init.constant_(classifier.head.bias, float("nan"))
    classifier.save(path, {})
    with pytest.raises(UserError, match=r"classifier\.pt holds weights that are not finite"):
        Classifier.load(path, CPU)


# ---- the way of a full model


def test_a_full_model_begins_with_the_head_of_its_features(photos):
    """A head by logistic regression: at its least the gradient of the penalised loss is zero."""
    classifier, rows = prepare(build(), CPU), np.arange(12)
    features = classifier.extractor(CPU, None)(classifier.encoder, photos, rows)
    truth = torch.arange(12) % 3
    temperature = classifier.begin_with_head(features, truth)
    assert temperature > 0
    seen = classifier.scaling.eval()(features)
    head = classifier.head
    with torch.no_grad():
        assert torch.allclose(classifier.folded_head()(features), head(seen), atol=1e-4)
        assert head(seen).argmax(1).tolist() == truth.tolist()
    head.zero_grad()
    F.cross_entropy(head(seen), truth, reduction="sum").backward()
    strength = -(head.weight.grad * head.weight).sum() / head.weight.square().sum()
    assert strength > 0
    assert torch.allclose(head.weight.grad, -strength * head.weight, atol=1e-3)
    assert head.bias.grad.abs().max() < 1e-3


def test_a_class_with_one_image_has_a_first_head_too(photos):
    classifier, rows = prepare(build(), CPU), np.arange(5)
    features = classifier.extractor(CPU, None)(classifier.encoder, photos, rows)
    assert classifier.begin_with_head(features, torch.tensor([0, 0, 1, 1, 2])) == 1.0
    assert classifier.folded_head()(features).argmax(1).tolist() == [0, 0, 1, 1, 2]


def test_weights_go_from_the_start_to_the_end_of_training(photos):
    classifier, rows = prepare(build(), CPU), np.arange(12)
    features = classifier.extractor(CPU, None)(classifier.encoder, photos, rows)
    classifier.begin_with_head(features, torch.arange(12) % 3)

    def state() -> dict:
        return {name: value.clone() for name, value in classifier.learning.state_dict().items()}

    start = state()
    classifier.train()
    classifier(views_of(photos, rows))  # BatchNorm's statistics move
    with torch.no_grad():
        for weight in classifier.parameters():
            weight.add_(torch.randn_like(weight))
    end = state()
    for share in (1.0, 0.25, 0.0, 0.25, 1.0):  # in any order
        classifier.go_to(share)
        for name, value in state().items():
            if not value.is_floating_point():
                assert torch.equal(value, end[name]), name
                continue
            between = (1 - share) * start[name] + share * end[name]
            assert torch.allclose(value, between, atol=1e-5), name
            assert share or torch.equal(value, start[name]), name
            assert share != 1 or torch.equal(value, end[name]), name
    changed = [name for name in start if not torch.equal(start[name], end[name])]
    assert {"encoder.bn1.running_mean", "standardise.norm.running_var"} <= set(changed)


def test_fixed_statistics_stay_while_the_weights_learn(photos):
    classifier, rows = prepare(build(), CPU), np.arange(12)
    features = classifier.extractor(CPU, None)(classifier.encoder, photos, rows)
    classifier.begin_with_head(features, torch.arange(12) % 3)
    classifier.fixed_statistics = True
    classifier.train()
    before = [buffer.clone() for buffer in classifier.buffers()]
    alone, among = (classifier(views_of(photos, rows[:n]))[:2] for n in (2, 12))
    assert torch.allclose(alone, among, atol=1e-4)  # a view does not depend on the others
    assert all(map(torch.equal, before, classifier.buffers()))
    among.sum().backward()
    assert classifier.encoder.conv1.weight.grad.abs().max() > 0
