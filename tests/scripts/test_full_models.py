"""Full models through `train_classifier.py`: they begin with a head, and may self-train."""

import json
from pathlib import Path

import pytest
import torch
from refusals import fails

from byol.run import checkpoint


@pytest.fixture(autouse=True)
def _narrow(narrow_encoder):
    pass


@pytest.fixture
def byol(narrow_run) -> list[str]:
    return ["--init", str(narrow_run.folder / "byol.pt")]


def weights_of(folder) -> dict:
    return checkpoint.load(Path(folder) / "classifier.pt", checkpoint.CLASSIFIER)["encoder"]


def summary_of(folder) -> dict:
    return json.loads((Path(folder) / "summary.json").read_text())


def test_the_encoder_learns_from_unlabelled_photos_and_its_statistics_stay(
    byol, narrow_run, classify, capsys
):
    assert classify(*byol, "--self-train", "2") == 0
    assert "rate 0.001 (0.0003 of the encoder)" in capsys.readouterr().err
    folder = "runs/classifier-byol-full-self-trained"
    before = checkpoint.load(narrow_run.folder / "byol.pt", checkpoint.ENCODER)["encoder"]
    for name, value in weights_of(folder).items():
        learns = name.endswith((".weight", ".bias"))
        assert torch.equal(value, before[name]) != learns, name
    summary = summary_of(folder)
    assert (summary["self_train"], summary["epochs"], summary["freeze"]) == (2, 2, False)
    assert summary["temperature"] is None  # that of the first head is not that of the last
    assert len((Path(folder) / "metrics.jsonl").read_text().splitlines()) == 2


def test_random_weights_self_train_too(photos, classify):
    data = ["--data", str(photos), "--labels", "8", "--image-size", "32", "--store-size", "32"]
    assert classify(*data, "--self-train", "1") == 0
    statistics = weights_of("runs/classifier-random-full-self-trained")["bn1.running_mean"]
    assert statistics.abs().max() > 0  # those of random weights are zero, and say nothing


def test_what_self_training_cannot_do_is_one_sentence(byol, photos, classify, capsys):
    code = classify(*byol, "--self-train", "1", "--freeze")
    fails(capsys, code, "self_train", "freeze")
    code = classify(*byol, "--self-train", "1", "--labels", "all")
    fails(capsys, code, "--self-train", "unlabelled", "--labels")
    assert not Path("runs").exists()


def test_cross_validation_says_how_far_the_weights_go(byol, narrow_run, classify, capsys):
    """Its share is taken by the classifier: with 0 the encoder stays as it is."""
    flags = [*byol, "--epochs", "2", "--folds", "2"]
    before = checkpoint.load(narrow_run.folder / "byol.pt", checkpoint.ENCODER)["encoder"]
    assert classify(*flags, "--lr", "0", "--run-dir", "still") == 0
    assert "advice      by cross-validation the encoder as it is" in capsys.readouterr().err
    of_still = summary_of("still")["cross_validation"]
    assert of_still["share"] == 0
    assert set(of_still["accuracy_by_share"]) == {"0.0", "0.25", "0.5", "0.75", "1.0"}
    for name, value in weights_of("still").items():
        if value.is_floating_point():
            assert torch.equal(value, before[name]), name
