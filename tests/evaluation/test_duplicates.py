"""Copies of photos: how pixels are compared, and which groups come of it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from byol.evaluation import duplicates
from byol.evaluation.duplicates import (
    agreements,
    connected,
    describe,
    find_groups,
    pair_agreements,
    upright,
    windows,
)


def landscape(seed: int, size: int = 80) -> np.ndarray:
    """A smooth random picture, uint8 (3, size, size)."""
    coarse = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    smooth = F.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=False)
    return (255 * smooth[0].clamp(0, 1)).byte().numpy()


def cropped(picture: np.ndarray, left: int, top: int, side: int) -> np.ndarray:
    part = torch.from_numpy(picture[:, top : top + side, left : left + side].copy()).float()
    size = picture.shape[1:]
    larger = F.interpolate(part[None], size=size, mode="bilinear", align_corners=False)
    return larger[0].round().clamp(0, 255).byte().numpy()


PICTURES = np.stack(
    [
        landscape(0),
        landscape(1),
        landscape(0)[:, :, ::-1],  # mirrored
        cropped(landscape(1), 5, 14, 60),
        landscape(2),
        cropped(landscape(1)[:, :, ::-1], 8, 3, 68),
    ]
)
SIZES = np.full((len(PICTURES), 2), PICTURES.shape[2])


def test_a_descriptor_of_the_whole_averages_the_pixels():
    grey = torch.rand(2, 64, 64)
    means = F.avg_pool2d(grey[:, None], 4).flatten(1)
    expected = F.normalize(means - means.mean(1, keepdim=True), dim=1, eps=1.0)
    torch.testing.assert_close(describe(grey)[:, 0], expected, atol=1e-6, rtol=1e-5)


def test_windows_are_averages_that_reach_both_ends():
    line = windows(72, 0.8)
    assert line.shape == (9, 16, 72)
    torch.testing.assert_close(line.sum(2), torch.ones(9, 16))
    ramp = torch.arange(72) + 0.5  # the mean of a window is where its middle lies
    middles = (line @ ramp).mean(1)
    expected = 72 * (0.4 + 0.025 * torch.arange(9))
    torch.testing.assert_close(middles, expected, atol=0.01, rtol=0)


def test_pixels_agree_as_their_correlation_says(monkeypatch):
    monkeypatch.setattr(duplicates, "SCALES", (1.0,))
    monkeypatch.setattr(duplicates, "BATCH", 2)
    found = agreements(
        PICTURES, SIZES, torch.tensor([[1, 4], [0, 4], [0, 1], [0, 1], [0, 1], [0, 1]])
    )
    small = torch.from_numpy(PICTURES).float().mean(1)
    small = F.adaptive_avg_pool2d(small[:, None], 16)[:, 0].numpy()
    for row, other, place in ((0, 1, 0), (0, 4, 1), (1, 4, 1), (2, 0, 0)):
        both = [np.corrcoef(small[row].ravel(), x.ravel())[0, 1]
                for x in (small[other], small[other][:, ::-1])]  # fmt: skip
        assert float(found[row, place]) == pytest.approx(max(both), abs=2e-3)


def test_a_crop_agrees_with_the_photo_that_it_is_of_and_with_no_other():
    found = agreements(
        PICTURES, SIZES, torch.tensor([[2, 1], [3, 5], [0, 1], [0, 1], [0, 1], [0, 4]])
    )
    assert found[0, 0] > 0.99  # mirrored
    assert min(found[1]) > 0.97  # two crops, one of them mirrored
    assert max(found[0, 1], *found[4], *found[5]) < 0.9


def test_a_flat_picture_agrees_with_none():
    flat = np.full((2, 3, 32, 32), 7, np.uint8)
    assert agreements(flat, SIZES[: len(flat)], torch.tensor([[1], [0]])).abs().max() < 1e-3


def test_pairs_that_share_a_photo_are_one_group():
    pairs = [(5, 9), (1, 2), (9, 3), (2, 1), (8, 7), (7, 6), (6, 0)]
    assert connected(pairs) == [[0, 6, 7, 8], [3, 5, 9], [1, 2]]
    assert connected([]) == []


def test_groups_say_what_each_photo_is_most_like():
    digests = np.arange(6 * 32, dtype=np.uint8).reshape(6, 32)
    digests[4] = digests[0]  # the same bytes, whatever the pixels say
    photos = SimpleNamespace(images=PICTURES, sizes=SIZES, digests=digests)
    features = torch.eye(6)  # all are neighbours
    groups = find_groups(photos, features, [6], 0.93)
    assert [[copy.row for copy in group] for group in groups] == [[0, 2, 4], [1, 3, 5]]
    first, second = groups
    assert [(copy.row, copy.like) for copy in first] == [(0, 4), (2, 0), (4, 0)]
    assert [copy.agreement for copy in (first[0], first[2])] == [1, 1]
    assert [copy.like for copy in second[1:]] == [1, 1]
    assert all(0.93 <= copy.agreement <= 1 for group in groups for copy in group)


def test_a_tall_photo_that_is_stored_transposed_is_upright():
    """In a store of 8 x 16: the rows of a tall photo lie in columns."""
    wide = np.zeros((3, 8, 16), np.uint8)
    wide[:, 2] = 200  # the third row of eight
    tall = np.zeros((3, 8, 16), np.uint8)
    tall[:, :, 4:6] = 200  # rows 4 and 5 of 16
    grey = upright(np.stack([wide, tall]), np.array([[8, 16], [16, 8]]))
    line = torch.zeros(8, 8)
    line[2] = 200
    assert torch.equal(grey, torch.stack([line, line]))


def test_pairs_agree_as_in_the_comparison_of_all():
    """PICTURES: 2 is 0 mirrored, 3 and 5 are crops of 1."""
    photos = SimpleNamespace(images=PICTURES, sizes=SIZES)
    pairs = np.array([(0, 2), (2, 0), (1, 3), (3, 1), (5, 1), (0, 1), (4, 3)])
    found = pair_agreements(photos, pairs)
    assert (found[:5] > 0.97).all()
    assert (found[5:] < 0.9).all()
