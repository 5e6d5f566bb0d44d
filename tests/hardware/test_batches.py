"""Batches of stored photos on their way to the device."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from photo_files import stored

from byol.errors import UserError
from byol.hardware import batches as module
from byol.hardware.batches import Batch, Batches, gather, has_room
from byol.schedules import Schedule

CPU = torch.device("cpu")


def photos_of(images: np.ndarray, path) -> SimpleNamespace:
    """Photos in a file whose sizes tell their rows."""
    count = len(images)
    sizes = np.stack([np.arange(count), 1000 + np.arange(count)], axis=1)
    return SimpleNamespace(images=stored(path, images), sizes=sizes)


def test_a_run_that_starts_later_gets_the_same_batches(tmp_path):
    images = np.arange(23, dtype=np.uint8).reshape(23, 1, 1, 1).repeat(3, axis=1)
    rows = np.arange(23)[::-1].copy()
    schedule = Schedule(23, 5, epochs=2, warmup_epochs=0, peak_lr=1, seed=1)
    batches = Batches(photos_of(images, tmp_path / "a.npy"), rows, schedule, "host", CPU)
    from_start = list(batches.from_step(0))
    assert [step for step, _ in from_start] == list(range(8))
    for first in (3, 7, 8):
        later = list(batches.from_step(first))
        for (step_a, a), (step_b, b) in zip(from_start[first:], later, strict=True):
            assert step_a == step_b
            assert a.rows.tolist() == b.rows.tolist() == b.images[:, 0, 0, 0].tolist()
            assert a.rows.tolist() == rows[schedule.positions(step_a)].tolist()
            assert torch.equal(a.images, b.images)
            assert a.sizes.tolist() == b.sizes.tolist() == [[row, 1000 + row] for row in a.rows]


def test_photos_on_the_device_give_the_same_batches(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (2500, 3, 4, 4), np.uint8)
    photos = photos_of(images, tmp_path / "a.npy")
    rows = np.arange(7, 2500, 3)
    schedule = Schedule(len(rows), 32, epochs=2, warmup_epochs=0, peak_lr=1, seed=5)
    from_host, from_device = (
        Batches(photos, rows, schedule, place, CPU) for place in ("host", "device")
    )
    assert from_host.images is photos.images
    assert torch.equal(from_device.images, torch.from_numpy(images))
    for (step, batch), (_, other) in zip(from_host.from_step(0), from_device.from_step(0),
                                         strict=True):  # fmt: skip
        assert batch.images.numpy().tolist() == images[batch.rows].tolist(), step
        assert torch.equal(batch.images, other.images)


def test_gather_takes_rows_in_their_order(tmp_path):
    images = np.arange(5 * 12, dtype=np.uint8).reshape(5, 3, 2, 2)
    in_file = stored(tmp_path / "a.npy", images)
    batch = gather(in_file, np.array([4, 0, 4]), CPU)
    assert batch.numpy().tolist() == images[[4, 0, 4]].tolist()


def test_a_batch_is_split_into_micro_batches_in_order():
    images, rows = torch.arange(12).reshape(12, 1, 1, 1), np.arange(50, 62)
    batch = Batch(images, np.stack([rows, 2 * rows], axis=1), rows)
    parts = list(batch.split(3))
    assert [part.rows.tolist() for part in parts] == [
        [50, 51, 52, 53], [54, 55, 56, 57], [58, 59, 60, 61],
    ]  # fmt: skip
    for part in parts:
        assert (part.images.flatten() + 50).tolist() == part.rows.tolist()
        assert part.sizes.tolist() == [[row, 2 * row] for row in part.rows]
    (alone,) = batch.split(1)
    assert alone.rows.tolist() == rows.tolist()


def test_an_error_of_the_reader_reaches_the_loop(tmp_path):
    """The next batch is read while one is in use: what fails there ends the loop."""
    images = np.zeros((20, 3, 4, 4), np.uint8)
    photos = photos_of(images, tmp_path / "a.npy")
    schedule = Schedule(20, 5, epochs=9, warmup_epochs=0, peak_lr=1, seed=0)
    batches = Batches(photos, np.arange(20), schedule, "host", CPU).from_step(0)
    next(batches)
    (tmp_path / "a.npy").write_bytes(b"")
    with pytest.raises(UserError, match="was cut while it was in use"):
        list(batches)


def test_photos_go_to_a_gpu_with_twice_the_room(tmp_path, monkeypatch):
    """`--photos-in auto`; a CPU has them in memory already, as the cache of files."""
    photos = photos_of(np.zeros((10, 3, 4, 4), np.uint8), tmp_path / "a.npy")  # 480 bytes
    for free, expected in ((961, True), (960, False), (0, False)):
        monkeypatch.setattr(module, "free_bytes", lambda device, free=free: free)
        assert has_room(photos.images, torch.device("cuda", 0)) is expected
        assert has_room(photos.images, CPU) is False
    schedule = Schedule(10, 5, epochs=1, warmup_epochs=0, peak_lr=1, seed=0)
    batches = Batches(photos, np.arange(10), schedule, "auto", CPU)
    assert batches.images is photos.images
    assert not batches.on_gpu


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_batches_are_those_of_the_cpu(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (300, 3, 8, 8), np.uint8)
    photos = photos_of(images, tmp_path / "a.npy")
    rows, cuda = np.arange(5, 300), torch.device("cuda", 0)
    schedule = Schedule(len(rows), 32, epochs=3, warmup_epochs=0, peak_lr=1, seed=5)
    for place, on_gpu in (("host", False), ("device", True), ("auto", True)):
        batches = Batches(photos, rows, schedule, place, cuda)
        assert batches.on_gpu is on_gpu
        for _, batch in batches.from_step(2):
            assert batch.images.device == cuda
            assert batch.images.cpu().numpy().tolist() == images[batch.rows].tolist()
