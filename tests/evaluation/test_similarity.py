"""Photos that are alike."""

import zipfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from photo_files import pngs, write_folder
from PIL import Image, ImageOps

from byol.encoder import Encoder
from byol.evaluation import similarity
from byol.evaluation.features import FeatureExtractor
from byol.evaluation.leakage import Duplicates
from byol.evaluation.similarity import near_duplicates
from data import open_photos


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(similarity, "BLOCK", 7)


def pairs_of(found) -> set[tuple[int, int]]:
    blocks = list(found)
    assert all(block.dtype == torch.int64 and block.shape[1] == 2 for block in blocks)
    listed = [tuple(pair) for block in blocks for pair in block.tolist()]
    assert len(listed) == len(set(listed))
    return set(listed)


@pytest.mark.parametrize("threshold", [-1, 0.2, 0.9])
def test_pairs_are_those_of_the_cosine(threshold):
    torch.manual_seed(0)
    a, b = torch.randn(30, 4), 5 * torch.randn(20, 4)
    cosines = F.cosine_similarity(a[:, None], b[None], dim=2)
    expected = {(i, j) for i in range(30) for j in range(20) if cosines[i, j] >= threshold}
    assert len(expected) > 5
    assert pairs_of(near_duplicates(a, b, threshold)) == expected


def test_pairs_among_the_same_photos_come_once():
    torch.manual_seed(0)
    a = torch.randn(30, 4)
    cosines = F.cosine_similarity(a[:, None], a[None], dim=2)
    expected = {(i, j) for i in range(30) for j in range(i + 1, 30) if cosines[i, j] >= 0.5}
    assert len(expected) > 20
    assert pairs_of(near_duplicates(a, None, 0.5)) == expected


def test_features_that_are_all_zero_are_like_none():
    assert pairs_of(near_duplicates(torch.zeros(9, 4), None, 0.5)) == set()


# ---- near-duplicates across a split


@pytest.fixture
def found(tmp_path, monkeypatch, cache):
    """Look for near-duplicates of `train` among `test`, files of a folder, with random weights."""
    monkeypatch.setenv("BYOL_CACHE", str(cache))

    def look(folder, train: list[str], test: list[str]) -> Duplicates:
        photos = open_photos(str(folder), 32, progress=False)
        names = list(photos.names)
        extract = FeatureExtractor(
            image_size=32, mean=[0.5] * 3, std=[0.25] * 3, device=torch.device("cpu"), amp=None
        )
        torch.manual_seed(0)
        encoder = Encoder()
        rows = [np.array([names.index(name) for name in part]) for part in (train, test)]
        return Duplicates(
            extract, encoder, photos, *((r, extract(encoder, photos, r)) for r in rows)
        )

    return look


def test_copies_are_found_and_other_photos_are_not(tmp_path, real_photos, found):
    """Re-encoded, resized and mirrored copies of real photos, among others."""
    copies = {
        "again.jpg": lambda image: image.save(tmp_path / "again.jpg", quality=60),
        "small.png": lambda image: image.resize((90, 90)).save(tmp_path / "small.png"),
        "mirrored.jpg": lambda image: ImageOps.mirror(image).save(tmp_path / "mirrored.jpg"),
    }
    with zipfile.ZipFile(real_photos) as archive:
        for number in range(60):
            name = f"PetImages/Dog/{number}.jpg"
            (tmp_path / f"{number}.jpg").write_bytes(archive.read(name))
    for number, copy in enumerate(copies.values()):
        copy(Image.open(tmp_path / f"{number}.jpg"))
    train = [f"{number}.jpg" for number in range(30)]
    test = [f"{number}.jpg" for number in range(30, 60)]
    duplicates = found(tmp_path, train, [*test, *copies])
    names = {duplicates.names[a]: duplicates.names[b] for a, b in duplicates.pairs.items()}
    assert names == {"again.jpg": "0.jpg", "small.png": "1.jpg", "mirrored.jpg": "2.jpg"}
    assert duplicates.summary() == {"near_duplicates": 3, "near_duplicates_among": 33}
    assert "3 of 33 test images are nearly the same" in str(duplicates)
    assert "again.jpg ~ 0.jpg" in str(duplicates)
    assert "--group-by" in str(duplicates)


def test_without_copies_nothing_is_said(tmp_path, found):
    write_folder(tmp_path / "p", pngs("a.png", "b.png", "c.png", "d.png"))
    duplicates = found(tmp_path / "p", ["a.png", "b.png"], ["c.png", "d.png"])
    assert str(duplicates) == ""
    assert duplicates.summary() == {"near_duplicates": 0, "near_duplicates_among": 2}
