"""`train_classifier.py` through its `main(argv)`, on narrow encoders."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from refusals import fails

from byol.run import checkpoint


@pytest.fixture(autouse=True)
def _narrow(narrow_encoder):
    pass


@pytest.fixture
def encoder_file(narrow_run) -> Path:
    return narrow_run.folder / "byol.pt"


def trained(folder) -> dict:
    return checkpoint.load(Path(folder) / "classifier.pt", checkpoint.CLASSIFIER)


def test_a_pretrained_encoder_learns_at_a_rate_of_its_own(encoder_file, photos, classify, capsys):
    """A tenth of the head's, unless a flag says. Random weights learn at the head's rate."""
    before = checkpoint.load(encoder_file, checkpoint.ENCODER)["encoder"]
    data = ["--data", str(photos), "--labels", "8", "--lr", "0.01", "--epochs", "1"]
    size = ["--image-size", "32", "--store-size", "32"]

    def encoder_after(init: str, *flags: str) -> dict:
        folder = "-".join((init[-6:], *flags))
        sides = size if init == "random" else []
        assert classify("--init", init, *data, *sides, "--run-dir", folder, *flags) == 0
        return trained(folder)["encoder"]

    weights = "layer1.0.conv1.weight"
    moved = {
        scale: (encoder_after(str(encoder_file), *flags)[weights] - before[weights]).norm()
        for scale, flags in {
            "0": ["--encoder-lr-scale", "0"],
            "default": [],
            "1": ["--encoder-lr-scale", "1"],
        }.items()
    }
    assert moved["0"] == 0
    assert 0.05 * moved["1"] < moved["default"] < 0.3 * moved["1"]
    still, full = (encoder_after("random", "--encoder-lr-scale", scale) for scale in ("0", "1"))
    assert torch.equal(still[weights], full[weights])
    capsys.readouterr()
    code = classify("--init", str(encoder_file), "--freeze", "--encoder-lr-scale", "0.1")
    fails(capsys, code, "--encoder-lr-scale is for the full model")


def test_several_seeds_in_one_go_are_what_each_is_alone(encoder_file, classify, capsys):
    """And in the full model the encoder learns."""
    init = ["--init", str(encoder_file), "--epochs", "2"]
    assert classify(*init, "--seeds", "2") == 0
    assert classify(*init, "--seed", "1", "--run-dir", "alone") == 0
    alone = Path("alone/metrics.jsonl").read_text()
    assert Path("runs/classifier-byol-full-seed1/metrics.jsonl").read_text() == alone
    assert Path("runs/classifier-byol-full/metrics.jsonl").read_text() != alone
    before = checkpoint.load(encoder_file, checkpoint.ENCODER)["encoder"]
    after = trained("runs/classifier-byol-full")["encoder"]
    assert not torch.equal(before["conv1.weight"], after["conv1.weight"])
    capsys.readouterr()
    fails(capsys, classify(*init, "--seeds", "2", "--run-dir", "x"), "--run-dir", "--runs")


def test_a_frozen_encoder_stays_as_it_is(encoder_file, classify):
    assert classify("--init", str(encoder_file), "--freeze") == 0
    before = checkpoint.load(encoder_file, checkpoint.ENCODER)["encoder"]
    after = trained("runs/classifier-byol-frozen")
    assert (after["mean"], after["std"]) == ([0.4, 0.5, 0.6], [0.3, 0.2, 0.25])  # the checkpoint's
    assert before.keys() == after["encoder"].keys()
    for key, value in before.items():
        assert torch.equal(value, after["encoder"][key]), key


def test_another_optimizer_trains_at_the_rate_of_the_settings(photos, classify, capsys):
    random = ["--data", str(photos), "--labels", "8", "--image-size", "32", "--store-size", "32"]
    assert classify(*random, "--epochs", "1", "--optimizer", "sgd") == 0
    assert (
        "sgd, peak rate 0.001 (0.001 of the encoder), weight decay 0.01" in capsys.readouterr().err
    )


def test_bad_input_is_one_sentence(encoder_file, classify, capsys, tmp_path):
    fails(capsys, classify("--init", "none.pt"), "none.pt")
    (tmp_path / "junk.pt").write_bytes(b"junk")
    fails(capsys, classify("--init", "junk.pt"), "junk.pt")
    lacking = torch.load(encoder_file, weights_only=True)
    del lacking["stem"]
    torch.save(lacking, "lacking.pt")
    fails(capsys, classify("--init", "lacking.pt"), "lacking.pt", "lacks stem")
    init = ["--init", str(encoder_file)]
    code = classify(*init, "--freeze", "--lr", "1")
    fails(capsys, code, "--lr is for the full model", "--frozen-lr")
    fails(capsys, classify(*init, "--image-size", "64"), "--image-size 64", "32")
    fails(capsys, classify(*init, "--labels", "0"), "--labels")
    fails(capsys, classify(*init, "--labels", "999"), "999")
    (tmp_path / "file").write_text("")
    fails(capsys, classify(*init, "--run-dir", "file/x"), "--run-dir")
    one = tmp_path / "one" / "cat"
    one.mkdir(parents=True)
    for index in range(12):
        Image.new("RGB", (40, 40), (index, 0, 0)).save(one / f"{index}.png")
    fails(capsys, classify("--data", "one", "--image-size", "32", "--labels", "4"), "class")


def test_resume_begins_anew_if_there_is_nothing_and_says_so(
    narrow_encoder, photos, classify, capsys
):
    flags = ["--data", str(photos), "--labels", "8", "--image-size", "32", "--freeze", "--resume"]
    assert classify(*flags) == 0
    said = "nothing to resume in runs/classifier-random-frozen: a new run"
    assert said in capsys.readouterr().err
    assert classify(*flags) == 0
    assert "holds this run, finished" in capsys.readouterr().err
