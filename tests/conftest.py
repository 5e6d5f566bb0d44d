"""Shared fixtures. One thread for each test process: `make test` runs one process a core."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch starts its threads; scripts inherit it

from pathlib import Path

import pytest
import torch
from narrow_encoder import narrow
from photo_files import cartoon_folder
from torchvision.models.resnet import BasicBlock, Bottleneck

from byol.encoder import ARCHITECTURES

torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "datasets"


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_disks():
    """Nothing is flushed to a disk: no power is lost here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder of the scripts."""
    return ROOT


@pytest.fixture(scope="session")
def real_photos() -> Path:
    """The archive of Cats-vs-Dogs; without it the test is skipped."""
    path = SHARED / "cats_vs_dogs.zip"
    if not path.is_file():
        pytest.skip(f"the real photos are not at {path}")
    return path


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """A folder of 44 drawings in two classes, with a test split of 12."""
    return cartoon_folder(tmp_path_factory.mktemp("photos"), train=32, test=12)


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """The cache of packed photos that the tests of a process share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def narrow_encoder(monkeypatch) -> None:
    """Each `Encoder` of the test is narrow: a step takes a tenth of the time."""
    narrow(monkeypatch)


@pytest.fixture
def few_layers(monkeypatch):
    """A block in each stage of a ResNet: the tests are of what is around it."""
    monkeypatch.setitem(ARCHITECTURES, "resnet18", (BasicBlock, [1, 1, 1, 1]))
    monkeypatch.setitem(ARCHITECTURES, "resnet50", (Bottleneck, [1, 1, 1, 1]))


@pytest.fixture
def in_tmp(tmp_path, cache, monkeypatch) -> Path:
    """An empty folder to work in, with the shared cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BYOL_CACHE", str(cache))
    return tmp_path
