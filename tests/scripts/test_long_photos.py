"""The scripts on photos of 16:9 and 9:16, which are stored wide."""

import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as reference

import evaluate
import train_byol
from byol.run import checkpoint
from byol.run.run import Run
from byol.views.augment import central_view
from data import open_photos
from data.cartoons import CLASSES, draw

STORED = (32, 60)  # of --store-size 32
JUDGE = ["--frozen-only", "--labels", "8", "--seeds", "1", "--amp", "off", "--device", "cpu"]


@pytest.fixture(scope="module")
def long_photos(tmp_path_factory) -> Path:
    """A folder of 40 photos, half of them tall, whose middle is a drawing; 8 are for the test."""
    root = tmp_path_factory.mktemp("long")
    for index in range(40):
        pixels, label = draw(7, index, 36)
        photo = Image.new("RGB", (64, 36), (index, 90, 120))
        photo.paste(Image.fromarray(pixels), (14, 0))
        if index % 4 > 1:
            photo = photo.transpose(Image.Transpose.ROTATE_90)
        path = root / ("train" if index < 32 else "test") / CLASSES[label] / f"{index:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo.save(path)
    return root


@pytest.fixture
def pretrain_long(tiny, long_photos):
    """Run `train_byol.py` on the long photos: its exit code."""
    others = tiny[tiny.index("--labels") :]
    return lambda *flags: train_byol.main(["--data", str(long_photos), *others, *flags])


def weights(path: str) -> dict[str, torch.Tensor]:
    return checkpoint.load(path, checkpoint.ENCODER)["encoder"]


def test_long_photos_train_go_on_to_the_bit_and_are_judged(
    pretrain_long, long_photos, classify, narrow_encoder, monkeypatch, capsys
):
    monkeypatch.setenv("BYOL_CACHE", "cache")
    assert pretrain_long() == 0
    assert "views       32 px, from 32 x 60 px, recipe cartoons" in capsys.readouterr().err
    assert open_photos(str(long_photos), 32).shape == STORED

    after_step = Run.after_step

    def interrupted(self, done):
        if done == 2:
            os.kill(os.getpid(), signal.SIGINT)
        after_step(self, done)

    apart = ["--run-dir", "runs/again", "--out", "again.pt"]
    with monkeypatch.context() as patch:
        patch.setattr(Run, "after_step", interrupted)
        assert pretrain_long(*apart) == 130
    shutil.rmtree("cache")  # the photos are packed anew, and in the same shape
    assert pretrain_long(*apart, "--resume") == 0
    one, other = weights("byol.pt"), weights("again.pt")
    assert all(torch.equal(value, other[key]) for key, value in one.items())

    capsys.readouterr()
    assert classify("--init", "byol.pt", "--freeze") == 0
    assert "on 8 images" in capsys.readouterr().out
    assert evaluate.main(["byol.pt", *JUDGE]) == 0
    assert "byol.pt" in capsys.readouterr().err


def test_both_ways_up_are_seen_upright(long_photos, monkeypatch):
    """What the network is given of a tall photo is what torchvision would crop from its file."""
    monkeypatch.setenv("BYOL_CACHE", "cache")
    photos = open_photos(str(long_photos), 36, progress=False)
    assert photos.shape == (36, 64)
    images = torch.from_numpy(photos.images[:])
    views = central_view(images, photos.sizes, 36, (0, 0, 0), (1, 1, 1))
    for name, view in zip(photos.names, views, strict=True):
        photo = reference.pil_to_tensor(Image.open(long_photos / name)) / 255
        torch.testing.assert_close(
            view, reference.center_crop(photo, [36, 36]), atol=1e-3, rtol=0, msg=name
        )
