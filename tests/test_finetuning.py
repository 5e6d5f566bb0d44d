"""The search for a way to fine-tune, and how lightly's encoder is read."""

import csv
import importlib
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from photo_files import cartoon_folder
from refusals import fails
from torch import nn

import train_byol
from byol import checkpoint
from byol.config import PretrainConfig
from byol.encoder import Encoder
from byol.linear_eval import FOLDS

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def finetuning():
    sys.path.insert(0, str(FOLDER))  # it imports its neighbours by their bare names
    yield importlib.import_module("finetuning")
    sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Drawings and an encoder of a tiny run."""
    folder = tmp_path_factory.mktemp("world")
    photos = cartoon_folder(folder / "photos", train=40, test=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("BYOL_CACHE", str(folder / "cache"))
        flags = "--image-size 32 --store-size 32 --batch-size 8 --hidden-dim 16 --labels 20"
        flags += " --projection-dim 8 --epochs 1 --optimizer sgd --device cpu --amp off"
        assert train_byol.main(["--data", str(photos), *flags.split()]) == 0
    return folder


def test_each_label_is_tested_once(finetuning):
    labels = torch.tensor([0, 1, 1, 0, 2, 1, 0, 0, 1, 2, 0, 1])
    folds = finetuning.folds_of(labels)
    assert len(folds) == 12
    assert set(folds.tolist()) == set(range(FOLDS))
    for label in range(3):  # spread over the folds as evenly as their number allows
        counts = torch.bincount(folds[labels == label], minlength=FOLDS)
        assert counts.max() - counts.min() <= 1


def test_a_list_of_ways_is_tried_once(finetuning, world, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("BYOL_CACHE", str(world / "cache"))
    ways = tmp_path / "ways.toml"
    ways.write_text(
        'all = {epochs = 2, batch_size = 8, warmup_epochs = 0}\n[[run]]\nname = "plain"\n'
        '[[run]]\nname = "other"\nlabel_smoothing = 0.1\njitter = 0.8\nbatchnorm = "fixed"\n'
    )
    table = tmp_path / "table.csv"
    command = [str(world / "byol.pt"), str(ways), "--image-size", "32", "--draws", "2"]
    command += ["--out", str(table)]
    assert not finetuning.main([*command, "--only", "other"])
    assert not finetuning.main(command)
    rows = list(csv.DictReader(table.open()))
    assert [(row["run"], row["draw"]) for row in rows] == [
        ("other", "0"), ("other", "1"), ("plain", "0"), ("plain", "1"),
    ]  # fmt: skip
    # 20 images: each is tested once, so accuracies are multiples of 5
    assert all(float(row[key]) % 5 == 0 for row in rows for key in ("accuracy", "probe"))
    # the probe is of the frozen features, which the way does not change
    assert [row["probe"] for row in rows[:2]] == [row["probe"] for row in rows[2:]]

    monkeypatch.setattr(finetuning, "judge", None)  # nothing is left to do
    assert not finetuning.main(command)
    renamed = str(shutil.copy(world / "byol.pt", tmp_path))  # the same weights
    assert not finetuning.main([renamed, *command[1:]])
    content = checkpoint.load(renamed, checkpoint.ENCODER)
    next(iter(content["encoder"].values())).add_(1)
    checkpoint.save(renamed, checkpoint.ENCODER, content)
    monkeypatch.setattr(finetuning, "judge", lambda *_: dict(accuracy=1, accuracy_ema=2, probe=3))
    assert not finetuning.main([renamed, *command[1:]])
    assert len(list(csv.DictReader(table.open()))) == 2 * len(rows)
    ways.write_text(ways.read_text().replace("0.8", "0.7"))
    fails(capfd, finetuning.main(command), "other", "other settings")
    ways.write_text('[[run]]\nname = "odd"\nrate = 1\n')
    fails(capfd, finetuning.main(command), "odd has rate", "choose from")


def test_probe_first_at_rate_0_stays_the_probe(finetuning, world, monkeypatch):
    """Nothing moves then, so what comes out is logistic regression on frozen features."""
    monkeypatch.setenv("BYOL_CACHE", str(world / "cache"))
    content = checkpoint.load(world / "byol.pt", checkpoint.ENCODER)
    config = PretrainConfig(**content["config"])
    photos = finetuning.open_photos(config.data, config.stored_side)
    rows = np.arange(40)
    way = finetuning.WAY | {
        "epochs": 1, "batch_size": 10, "lr": 0.0, "probe_first": True, "batchnorm": "fixed",
        "ema": 0.0, "warmup_epochs": 0,
    }  # fmt: skip
    last, average, probe = finetuning.fine_tune(
        content, config, photos, rows[:30], rows[30:], way, 0
    )
    assert last == average
    assert last == pytest.approx(probe, abs=0.101)  # of 10 images; running statistics moved a bit


def test_lightlys_backbone_is_read_whole(finetuning):
    module = importlib.import_module("lightly_accuracy")
    resnet = torchvision.models.resnet18()
    backbone = nn.Sequential(*list(resnet.children())[:-1], nn.Flatten())
    encoder = Encoder()
    encoder.load_state_dict(module.torchvision_weights(backbone), strict=True)
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(encoder.eval()(images), backbone.eval()(images))
