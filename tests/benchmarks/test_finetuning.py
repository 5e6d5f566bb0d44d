"""The search for a way to fine-tune, and how lightly's encoder is read."""

import csv
import shutil

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from byol.config import PretrainConfig
from byol.encoder import Encoder
from byol.run import checkpoint
from data import open_photos
from experiments import finetuning, lightly

WAYS = """
all = {epochs = 2, batch_size = 8, warmup_epochs = 0}
[[run]]
name = "plain"
[[run]]
name = "other"
label_smoothing = 0.1
jitter = 0.8
batchnorm = "fixed"
"""


@pytest.fixture
def encoder(in_tmp, photos, few_layers):
    """A file with random weights, as train_byol.py writes one."""
    torch.manual_seed(0)
    config = PretrainConfig(data=str(photos), image_size=32, store_size=32, labels=20)
    config.device, config.amp = "cpu", "off"
    checkpoint.save_encoder("byol.pt", Encoder(), config, 1, "photos")
    return in_tmp / "byol.pt"


def test_a_list_of_ways_is_tried_once(encoder, in_tmp, monkeypatch, capfd):
    tested = []

    def fine_tune(pretrained, config, photos, train, test, way, seed):
        assert sorted([*train, *test]) == sorted(set(train) | set(test))
        tested.append(test)
        return way["jitter"], 0.5, seed / 2

    monkeypatch.setattr(finetuning, "fine_tune", fine_tune)
    ways, table = in_tmp / "ways.toml", in_tmp / "table.csv"
    ways.write_text(WAYS)
    command = [str(encoder), str(ways), "--image-size", "32", "--draws", "2", "--out", str(table)]
    assert not finetuning.main([*command, "--only", "other"])
    assert not finetuning.main(command)
    rows = list(csv.DictReader(table.open()))
    assert [(row["run"], row["draw"]) for row in rows] == [
        ("other", "0"), ("other", "1"), ("plain", "0"), ("plain", "1"),
    ]  # fmt: skip
    assert [row["accuracy"] for row in rows] == ["80.0", "80.0", "0.0", "0.0"]
    assert [row["probe"] for row in rows] == ["0.0", "50.0", "0.0", "50.0"]
    for folds in (tested[:5], tested[5:10]):  # of a draw: each of its 20 labels is tested once
        assert len(set(np.concatenate(folds))) == sum(map(len, folds)) == 20

    monkeypatch.setattr(finetuning, "judge", None)  # nothing is left to do
    assert not finetuning.main(command)
    renamed = str(shutil.copy(encoder, in_tmp / "renamed.pt"))  # the same weights
    assert not finetuning.main([renamed, *command[1:]])
    content = checkpoint.load(renamed, checkpoint.ENCODER)
    next(iter(content["encoder"].values())).add_(1)
    checkpoint.save(renamed, checkpoint.ENCODER, content)
    monkeypatch.setattr(finetuning, "judge", lambda *_: dict(accuracy=1, accuracy_ema=2, probe=3))
    assert not finetuning.main([renamed, *command[1:]])
    assert len(list(csv.DictReader(table.open()))) == 2 * len(rows)

    ways.write_text(WAYS.replace("0.8", "0.7"))
    capfd.readouterr()
    assert finetuning.main(command) == 2
    said = capfd.readouterr().err
    assert "other: " in said
    assert "other settings" in said
    ways.write_text('[[run]]\nname = "odd"\nrate = 1\n')
    assert finetuning.main(command) == 2
    said = capfd.readouterr().err
    assert "odd has rate" in said
    assert "choose from" in said


@pytest.fixture
def fine_tune(encoder):
    """Fine-tune on 30 photos and test on 10: the accuracies of a way."""
    pretrained = checkpoint.load(encoder, checkpoint.ENCODER)
    config = PretrainConfig(**pretrained["config"])
    photos = open_photos(config.data, config.stored_side)
    rows = np.arange(40)

    def fine_tune(**way):
        way = {**finetuning.WAY, "batch_size": 10, "warmup_epochs": 0} | way
        return finetuning.fine_tune(pretrained, config, photos, rows[:30], rows[30:], way, 0)

    return fine_tune


def test_probe_first_at_rate_0_stays_the_probe(fine_tune):
    """Nothing moves then, so what comes out is logistic regression on frozen features."""
    still = {"lr": 0.0, "probe_first": True, "batchnorm": "fixed", "ema": 0.0}
    last, average, probe = fine_tune(epochs=1, **still)
    assert last == average
    assert last == pytest.approx(probe, abs=0.101)  # of 10 images; running statistics moved a bit


def test_each_setting_of_a_way_is_used(fine_tune):
    way = {"jitter": 0.8, "label_smoothing": 0.1, "crop_from": 0.5, "optimizer": "sgd"}
    results = fine_tune(epochs=2, **way, backbone=0.1, ema=0.9)
    assert all(0 <= 10 * accuracy <= 10 for accuracy in results)
    assert [10 * accuracy for accuracy in results] == pytest.approx(
        [round(10 * accuracy) for accuracy in results]
    )


def test_all_of_lightlys_backbone_is_read():
    resnet = torchvision.models.resnet18()
    backbone = nn.Sequential(*list(resnet.children())[:-1], nn.Flatten())
    encoder = Encoder()
    encoder.load_state_dict(lightly.torchvision_weights(backbone), strict=True)
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(encoder.eval()(images), backbone.eval()(images))
