"""Weights to begin with, from the flag to the files: `--init`, `--head-epochs`, and who says so."""

import json
import signal
from pathlib import Path

import pytest
import torch
from refusals import fails
from test_pretraining import RUN, assert_same, signal_after, weights

import plot_losses
from byol.encoder import Encoder
from byol.method import BYOL
from byol.run import checkpoint


@pytest.fixture(autouse=True)
def _narrow(narrow_encoder):
    pass


@pytest.fixture
def given() -> dict[str, torch.Tensor]:
    """Weights of an encoder, which are in given.pth as torch.save writes them."""
    torch.manual_seed(5)
    encoder = Encoder()
    state = {key: value.clone() for key, value in encoder.state_dict().items()}
    torch.save(state, "given.pth")
    return state


def of(model: dict, network: str) -> dict[str, torch.Tensor]:
    """The parameters of a network in a state of training; buffers are left out."""
    names = {name for name, _ in Encoder().named_parameters()}
    return {name: model[f"{network}.{name}"] for name in names}


HEADS_FIRST = ["--init", "given.pth", "--head-epochs", "1"]  # three of six steps


@pytest.mark.parametrize(
    "flags",
    [
        ["--optimizer", "sgd"],
        ["--optimizer", "adamw"],
        ["--optimizer", "lars", "--warmup-epochs", "0"],
        ["--accumulate", "2", "--losses", "multi", "--weight-decay", "0.1"],
    ],
    ids=lambda flags: flags[1],
)
def test_the_heads_learn_first_and_the_encoder_waits(pretrain, given, flags, capsys):
    """To the bit, in the online network and in the target; then both move."""
    parameters = {k: given[k] for k, _ in Encoder().named_parameters()}
    with signal_after(3, signal.SIGINT):
        assert pretrain(*HEADS_FIRST, *flags) == 130
    told = capsys.readouterr().err
    assert "resnet18 (imagenet stem) from given.pth" in told
    assert "in the first 3 the heads alone" in told
    waiting = checkpoint.load_state(RUN)["model"]
    assert_same(of(waiting, "encoder"), parameters)
    assert_same(of(waiting, "target_encoder"), parameters)
    torch.manual_seed(0)
    blocks = {"layer3.0": 2, "layer2.0": 4} if "multi" in flags else {}
    begun = BYOL(Encoder(), 32, 16, blocks).state_dict()  # its heads are those of the seed
    for name, value in begun.items():
        if name.startswith(("projectors", "predictors")) and value.ndim > 1:
            assert not torch.equal(waiting[name], value), name
    statistics = "encoder.bn1.running_mean"  # they follow the new photos from the first step on
    assert not torch.equal(waiting[statistics], given["bn1.running_mean"])

    assert pretrain(*HEADS_FIRST, *flags, "--resume") == 0
    done = checkpoint.load_state(RUN)["model"]
    for name, value in parameters.items():
        assert not torch.equal(done[f"encoder.{name}"], value), name
        if value.ndim > 1:  # of a bias next to 1, so little is lost in rounding
            assert not torch.equal(done[f"target_encoder.{name}"], value), name


def test_a_run_from_given_weights_goes_on_to_the_bit(pretrain, given):
    assert pretrain(*HEADS_FIRST, "--run-dir", "whole", "--out", "whole.pt") == 0
    for step in (2, 4):  # while the heads alone learn, and after
        with signal_after(step, signal.SIGINT):
            assert pretrain(*HEADS_FIRST, *(["--resume"] if step == 4 else [])) == 130
    assert pretrain(*HEADS_FIRST, "--resume") == 0
    assert_same(weights("whole.pt"), weights("byol.pt"))
    ends = [checkpoint.load_state(Path(run))["model"] for run in ("whole", RUN)]
    assert_same(*ends)


def test_resuming_wants_the_same_weights_wherever_they_lie(pretrain, given, capsys):
    with signal_after(2, signal.SIGINT):
        assert pretrain(*HEADS_FIRST) == 130
    fails(capsys, pretrain("--resume"), "--resume", "other weights")
    torch.save({**given, "conv1.weight": given["conv1.weight"] + 1}, "other.pth")
    again = ["--head-epochs", "1", "--resume"]
    fails(capsys, pretrain("--init", "other.pth", *again), "--resume", "other weights")
    fails(capsys, pretrain("--init", "given.pth", *again, "--head-epochs", "2"), "head_epochs")
    torch.save({"state_dict": {f"module.{k}": v for k, v in given.items()}}, "moved.pth")
    assert pretrain("--init", "moved.pth", *again) == 0


def test_the_encoder_remembers_what_it_began_with(pretrain, given, narrow_run):
    assert pretrain(*HEADS_FIRST, "--head-epochs", "0.5", "--epochs", "1") == 0
    content = checkpoint.load("byol.pt", checkpoint.ENCODER)
    assert (content["config"]["init"], content["config"]["head_epochs"]) == ("given.pth", 0.5)
    assert content["init_weights"] == checkpoint.fingerprint_of(given)
    before = narrow_run.folder / "byol.pt"
    assert checkpoint.load(before, checkpoint.ENCODER)["init_weights"] == "random"
    # it is a start as well, also from an unfinished run
    for file in ("byol.pt", str(RUN / "last.pt")):
        assert pretrain("--init", file, "--epochs", "1", "--run-dir", "on", "--out", "on.pt",
                        "--overwrite") == 0  # fmt: skip
        content = checkpoint.load("on.pt", checkpoint.ENCODER)
        assert content["init_weights"] == checkpoint.fingerprint_of(weights("byol.pt"))


def test_a_short_run_gives_the_heads_half_of_it(pretrain, given, capsys):
    """As with the warm-up; a run of one epoch would otherwise leave the encoder as it was."""
    assert pretrain("--init", "given.pth", "--epochs", "1", "--batch-size", "4") == 0
    assert "in the first 3 the heads alone" in capsys.readouterr().err
    assert not torch.equal(weights("byol.pt")["conv1.weight"], given["conv1.weight"])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--head-epochs", "2"], ("--head-epochs", "--init")),
        (["--init", "none.pth"], ("none.pth",)),
        (["--init", "given.pth", "--arch", "resnet34"], ("given.pth", "--arch resnet18")),
        (["--init", "given.pth", "--head-epochs", "-1"], ("head_epochs", "at least 0")),
        (["--channels", "grey", "--grayscale", "0.5"], ("--grayscale", "--channels grey")),
    ],
)
def test_a_start_that_cannot_be_is_told_before_anything_is_written(
    pretrain, given, capsys, flags, words
):
    fails(capsys, pretrain(*flags), *words)
    assert [path.name for path in Path().iterdir()] == ["given.pth"]


# ---- classifiers


@pytest.fixture
def photo_flags(photos):
    return ["--data", str(photos), "--labels", "8", "--image-size", "32", "--store-size", "32"]


def test_a_classifier_takes_given_weights_and_the_settings_of_its_flags(
    classify, given, photo_flags, narrow_run, no_drawing, capsys
):
    colours = ["--mean", "0.4", "0.5", "0.6", "--std", "0.3", "0.2", "0.25"]
    for start in ("given.pth", str(narrow_run.folder / "byol.pt"), "random"):
        assert classify("--init", start, "--freeze", *photo_flags, *colours) == 0
    folder = Path("runs/classifier-given.pth-frozen")
    content = checkpoint.load(folder / "classifier.pt", checkpoint.CLASSIFIER)
    assert_same(given, content["encoder"])
    assert (content["image_size"], content["mean"]) == (32, [0.4, 0.5, 0.6])
    assert json.loads((folder / "summary.json").read_text())["init"] == "given.pth"
    full = ["--init", "given.pth", *photo_flags, *colours, "--encoder-lr-scale", "0.5"]
    assert classify(*full) == 0
    moved = checkpoint.load("runs/classifier-given.pth-full/classifier.pt", checkpoint.CLASSIFIER)
    assert not torch.equal(moved["encoder"]["conv1.weight"], given["conv1.weight"])
    capsys.readouterr()

    assert plot_losses.main([]) == 0  # each start has a column and a bar of its own
    printed = capsys.readouterr()
    header, _, frozen, _ = printed.out.splitlines()[:4]
    assert header == ("| test accuracy, % | random weights | BYOL weights | weights of given.pth |")
    assert "no run" not in frozen
    assert "random full model, byol full model" in printed.err
    assert "left out" not in printed.err

    # the same weights under another name are another group; others of the same name leave it
    torch.save({**given, "conv1.weight": given["conv1.weight"] + 1}, "given.pth")
    other = ["--init", "given.pth", "--freeze", *photo_flags, *colours]
    fails(capsys, classify(*other), "other settings, weights or images")
    assert classify(*other, "--run-dir", "runs/other") == 0
    assert plot_losses.main([]) == 0
    assert "other weights of given.pth than the newest" in capsys.readouterr().err


def test_a_classifier_that_was_stopped_knows_its_weights(classify, given, photo_flags, capsys):
    start = ["--init", "given.pth", "--freeze", *photo_flags]
    assert classify(*start) == 0
    Path("given.pth").rename("moved.pth")
    code = classify("--init", "moved.pth", *start[2:], "--run-dir",
                    "runs/classifier-given.pth-frozen", "--resume")  # fmt: skip
    assert code == 0
    assert "holds this run, finished" in capsys.readouterr().err


# ---- photos in grey


def test_a_classifier_takes_the_channels_of_its_encoder(pretrain, classify, photos, capsys):
    """An encoder of grey photos gives a classifier that does not see colour."""
    assert pretrain("--channels", "grey", "--epochs", "1") == 0
    assert "recipe cartoons, photos in grey\n" in capsys.readouterr().err
    assert classify("--init", "byol.pt", "--freeze") == 0
    content = checkpoint.load("runs/classifier-byol-frozen/classifier.pt", checkpoint.CLASSIFIER)
    assert content["channels"] == "grey"
    fails(capsys, classify("--init", "byol.pt", "--channels", "colour"), "was trained with grey")
    assert classify("--init", "byol.pt") == 0  # the full model too
