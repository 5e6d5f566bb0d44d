"""Files of commit 725e671, before settings were renamed, are still read.

`old/` holds what that commit wrote after two tiny epochs on the drawings of the fixture `photos`.
To keep the files small, each tensor of them is one number, expanded to the shape of the tensor.
"""

import shutil
from pathlib import Path

import pytest
import torch
from refusals import fails

import train_byol
import train_classifier
from byol.evaluation.classifier import Classifier
from byol.run import checkpoint
from byol.run.metrics import read_jsonl
from data import open_photos

OLD = Path(__file__).resolve().parent / "old"
SETTINGS = ["--data", "photos", "--labels", "8", "--image-size", "32", "--store-size", "40",
            "--view-size", "32", "--hidden-dim", "16", "--projection-dim", "8",
            "--inner-blocks", "layer2.0", "--inner-grids", "2", "--loss-weights", "1", "1",
            "--batch-size", "8", "--optimizer", "sgd", "--lr", "0.06", "--weight-decay", "2e-3",
            "--recipe", "cartoons", "--amp", "off", "--device", "cpu", "--save-every", "0",
            "--warmup-epochs", "1", "--tau0", "0.97", "--health-every", "0"]  # fmt: skip


@pytest.fixture(autouse=True)
def linked_photos(in_tmp, photos):
    (in_tmp / "photos").symlink_to(photos)


def writable(value):
    """The same with tensors that can be written to."""
    if isinstance(value, torch.Tensor):
        return value.contiguous().clone()
    if isinstance(value, dict):
        return {key: writable(item) for key, item in value.items()}
    return [writable(item) for item in value] if isinstance(value, list) else value


def old_state() -> dict:
    """The state of training as that commit wrote it."""
    content = torch.load(OLD / "last.pt", weights_only=True)
    return {key: value for key, value in writable(content).items() if key not in ("kind", "sealed")}


def test_settings_of_an_old_encoder_have_the_names_of_today():
    settings = checkpoint.load(OLD / "byol.pt", checkpoint.ENCODER)["config"]
    assert settings["inner_blocks"] == ["layer2.0"]
    assert settings["inner_grids"] == [2]
    assert settings["view_size"] == 32
    assert not settings.keys() & {"taps", "tap_grid", "first_size", "first_epochs", "compile"}


def test_an_old_encoder_starts_a_classifier_with_its_inner_blocks():
    shutil.copy(OLD / "byol.pt", "byol.pt")
    flags = ["--init", "byol.pt", "--freeze", "--representation", "combined", "--epochs", "1"]
    assert train_classifier.main([*flags, "--amp", "off", "--device", "cpu", "--folds", "0"]) == 0
    content = torch.load("runs/classifier-byol-frozen-combined/classifier.pt", weights_only=True)
    assert content["inner_blocks"] == {"layer2.0": 2}
    assert content["head"]["weight"].shape == (2, 512 + 128 * 4)


def test_an_old_classifier_predicts(photos):
    cpu = torch.device("cpu")
    classifier = Classifier.load(OLD / "classifier.pt", cpu)
    assert classifier.inner_blocks == {"layer2.0": 2}
    opened = open_photos(str(photos), 40)
    probabilities = classifier.predict(opened, opened.by_name[:4], cpu, None)
    assert probabilities.shape == (4, 2)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(4))


def test_an_old_run_goes_on():
    checkpoint.save_state(make("runs/byol"), old_state())
    assert train_byol.main([*SETTINGS, "--epochs", "3", "--resume"]) == 0
    assert [row["step"] for row in read_jsonl("runs/byol/metrics.jsonl")] == [9]
    settings = checkpoint.load_state(Path("runs/byol"))["config"]
    assert (settings["view_size"], settings["epochs"]) == (32, 3)


def test_an_old_run_of_other_settings_is_told_in_the_names_of_today(capsys):
    checkpoint.save_state(make("runs/byol"), old_state())
    code = train_byol.main([*SETTINGS, "--epochs", "2", "--view-size", "40", "--resume"])
    fails(capsys, code, "view_size was 32 and is now 40")


def test_an_old_run_with_views_of_two_sizes_cannot_go_on(capsys):
    content = old_state()
    content["config"]["first_epochs"] = 1.0
    checkpoint.save_state(make("runs/byol"), content)
    code = train_byol.main([*SETTINGS, "--epochs", "2", "--resume"])
    fails(capsys, code, "views of two sizes", "another --run-dir")


def make(folder: str) -> Path:
    path = Path(folder)
    path.mkdir(parents=True)
    return path
