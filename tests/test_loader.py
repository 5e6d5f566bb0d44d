"""Which image comes when: a function of (seed, step) alone."""

import numpy as np
import pytest
import torch
from photo_files import stored

from byol.loader import batches, gather, positions_at, put_on_device


def test_an_epoch_shows_each_image_once_and_drops_the_rest():
    seen = np.concatenate([positions_at(step, 23, 5, seed=1) for step in range(4)])
    assert len(seen) == 20
    assert len(set(seen.tolist())) == 20
    following = np.concatenate([positions_at(step, 23, 5, seed=1) for step in range(4, 8)])
    assert seen.tolist() != following.tolist()


def test_the_order_depends_on_seed_and_step_only():
    expected = [positions_at(step, 23, 5, seed=1).tolist() for step in range(12)]
    assert [positions_at(s, 23, 5, seed=1).tolist() for s in reversed(range(12))] == expected[::-1]
    assert positions_at(0, 23, 5, seed=2).tolist() != expected[0]


@pytest.mark.parametrize("start", [0, 3, 7])
def test_a_run_that_starts_later_gets_the_same_batches(start, tmp_path):
    images = np.arange(23, dtype=np.uint8).reshape(23, 1, 1, 1).repeat(3, axis=1)
    images = stored(tmp_path / "a.npy", images)
    rows = np.arange(23)[::-1].copy()
    device = torch.device("cpu")
    whole = list(batches(images, rows, 5, 1, range(9), device))
    tail = list(batches(images, rows, 5, 1, range(start, 9), device))
    for (step_a, rows_a, batch_a), (step_b, rows_b, batch_b) in zip(
        whole[start:], tail, strict=True
    ):
        assert step_a == step_b
        assert rows_a.tolist() == rows_b.tolist() == batch_a[:, 0, 0, 0].tolist()
        assert torch.equal(batch_a, batch_b)


def test_photos_on_the_device_give_the_same_batches(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (2500, 3, 4, 4), np.uint8)
    in_file = stored(tmp_path / "a.npy", images)
    device = torch.device("cpu")
    on_device = put_on_device(in_file, device)
    assert torch.equal(on_device, torch.from_numpy(images))
    rows = np.arange(7, 2500, 3)
    from_host, from_device = (
        list(batches(source, rows, 32, 5, range(30), device)) for source in (in_file, on_device)
    )
    for (step, chosen, batch), (_, _, other) in zip(from_host, from_device, strict=True):
        assert batch.numpy().tolist() == images[chosen].tolist(), step
        assert torch.equal(batch, other)


def test_gather_takes_rows_in_their_order(tmp_path):
    images = np.arange(5 * 12, dtype=np.uint8).reshape(5, 3, 2, 2)
    in_file = stored(tmp_path / "a.npy", images)
    batch = gather(in_file, np.array([4, 0, 4]), torch.device("cpu"))
    assert batch.numpy().tolist() == images[[4, 0, 4]].tolist()
