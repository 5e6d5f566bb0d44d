"""No room left at any write: one sentence, the last good state stays, and the job can go on.

A limit on the length of files (RLIMIT_FSIZE) fails at the first file that is longer; a small disk
in memory (tmpfs, for root only) fills up as real ones do.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from photo_files import cartoon_folder, pets, png, write_zip
from processes import longest_file
from refusals import fails

import evaluate
import plot_losses
import train_byol
import train_classifier
from byol.errors import UserError
from byol.run.metrics import MetricsFile, read_jsonl
from data import open_photos
from data.photos import FILES

pytestmark = pytest.mark.hazard
TINY = ["--labels", "8", "--image-size", "32", "--store-size", "32", "--hidden-dim", "32",
        "--projection-dim", "16", "--batch-size", "8", "--epochs", "2", "--log-every", "1",
        "--optimizer", "sgd", "--recipe", "cartoons", "--amp", "off", "--device", "cpu",
        "--save-every", "0"]  # fmt: skip


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts a disk of so many bytes at `small`, or changes its size."""
    folder = tmp_path / "small"
    folder.mkdir()

    def mount(size: int) -> Path:
        options = f"{'remount,' if os.path.ismount(folder) else ''}size={size}"
        command = ["mount", "-t", "tmpfs", "-o", options, "byol-test", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no disk in memory can be mounted: {done.stderr.strip()}")
        return folder

    yield mount
    if os.path.ismount(folder):
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="module")
def world(cache, tmp_path_factory):
    """Photos, and a run that nothing disturbed. The encoders are those of every day."""
    folder = tmp_path_factory.mktemp("world")
    cartoon_folder(folder / "photos", train=64, test=12)  # so many that their list is a long file
    run = ["--run-dir", str(folder / "run"), "--out", str(folder / "byol.pt")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BYOL_CACHE", str(cache))
        assert train_byol.main(["--data", str(folder / "photos"), *TINY, *run]) == 0
    return folder


@pytest.fixture(autouse=True)
def _in_tmp(in_tmp):
    """Every test works in a folder of its own."""


def pretrain(world, *flags):
    return train_byol.main(["--data", str(world / "photos"), *TINY, *map(str, flags)])


def classify(world, *flags):
    return train_classifier.main(
        ["--init", str(world / "byol.pt"), "--freeze", "--epochs", "2", "--amp", "off",
         "--device", "cpu", *flags])  # fmt: skip


def half_written(folder=Path(".")) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.endswith(".tmp")]


def is_as_undisturbed(world, out) -> None:
    want, got = (torch.load(f, weights_only=True)["encoder"] for f in (world / "byol.pt", out))
    assert all(torch.equal(value, got[key]) for key, value in want.items())


# ---- pretraining ----


@pytest.mark.parametrize(
    ("size", "name"),
    [(0, "run.lock"), (200, "config.json"), (None, "split.json"), (5_000_000, "last.pt")],
)
def test_pretraining(world, capsys, size, name):
    if size is None:  # the file before has room
        size = (world / "run" / "config.json").stat().st_size + 20
        assert (world / "run" / name).stat().st_size > size
    with longest_file(size):
        fails(capsys, pretrain(world), f"no room to write runs/byol/{name} (File too large)")
    assert half_written() == []
    assert not Path("runs/byol/last.pt").exists()
    if name == "last.pt":
        assert pretrain(world) == 0
        is_as_undisturbed(world, "byol.pt")


def test_pretraining_on_a_disk_that_fills_up(world, capsys, small_disk):
    """The first state of 135 MB has room, the second beside it has not; then there is more room."""
    one = (world / "run" / "last.pt").stat().st_size
    disk = small_disk(int(1.5 * one))
    where = ["--run-dir", disk / "run", "--out", disk / "byol.pt"]
    fails(capsys, pretrain(world, *where), f"{disk}/run/last.pt (No space left on device)")
    assert half_written(disk) == []
    step = torch.load(disk / "run" / "last.pt", weights_only=True)["step"]
    assert step == 7  # the first epoch: 56 photos in batches of 8
    fails(capsys, pretrain(world, *where, "--resume"), "/run/last.pt (No space left on device)")
    small_disk(int(2.2 * one))
    assert pretrain(world, *where, "--resume") == 0
    is_as_undisturbed(world, disk / "byol.pt")
    steps = [row["step"] for row in read_jsonl(disk / "run" / "metrics.jsonl")]
    assert steps == list(range(1, 15))


def test_the_hand_off(world, capsys, small_disk):
    disk = small_disk(20_000_000)
    where = ["--run-dir", "run", "--out", disk / "byol.pt"]
    fails(capsys, pretrain(world, *where), f"{disk}/byol.pt (No space left on device)")
    assert list(disk.iterdir()) == []
    small_disk(60_000_000)
    assert pretrain(world, *where, "--resume") == 0
    is_as_undisturbed(world, disk / "byol.pt")


def test_a_line_of_the_metrics_is_whole_or_not_there(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsFile(path) as metrics, longest_file(50):
        metrics.write(step=1, loss=0.5)
        metrics.write(step=2, loss=0.5)
        with pytest.raises(OSError, match="File too large") as caught:
            metrics.write(step=3, loss=0.5)
    assert caught.value.filename == str(path)
    assert path.read_text() == '{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.5}\n'


# ---- packing ----


def test_packing_at_any_file(tmp_path, monkeypatch):
    monkeypatch.setenv("BYOL_CACHE", str(tmp_path / "cache"))
    cache = tmp_path / "cache"
    content = {**pets(40), **{f"PetImages/Cat/x{i}.jpg": b"" for i in range(2)}}
    archive = write_zip(tmp_path / "a.zip", content)
    open_photos(str(archive), 8, progress=False)
    (folder,) = cache.iterdir()
    sizes = sorted({(folder / name).stat().st_size for name in (*FILES, "manifest.json")})
    assert len(sizes) > 5
    for number, size in enumerate((0, 64, *(size - 1 for size in sizes))):
        # a photo more each time: it is packed anew, with the other photos out of the first pack
        more = {f"PetImages/Dog/x{number}.png": png(1000 + number)}
        archive = write_zip(tmp_path / "a.zip", content | more)
        with longest_file(size), pytest.raises(UserError, match="no room to pack") as caught:
            open_photos(str(archive), 8, progress=False)
        assert f"{cache} (File too large)" in str(caught.value)
        assert [path.name for path in cache.iterdir()] == [folder.name]
    assert len(open_photos(str(archive), 8, progress=False).names) == 81


def test_packing_on_a_disk_that_fills_up(tmp_path, monkeypatch, small_disk):
    archive = write_zip(tmp_path / "a.zip", pets(40))
    for pages in range(1, 40):
        disk = small_disk(pages * 4096)
        monkeypatch.setenv("BYOL_CACHE", str(disk / "cache"))
        try:
            photos = open_photos(str(archive), 8, progress=False)
        except UserError as error:
            assert str(disk / "cache") in str(error)  # noqa: PT017
            assert "No space left" in str(error)  # noqa: PT017
            assert list(disk.glob("cache/*")) == []
        else:
            break
    assert pages > 5
    assert len(photos.names) == 80


# ---- what comes after ----


@pytest.mark.parametrize(
    ("size", "name"),
    [
        (20, "about.partial.json"),
        (8000, "metrics.partial.jsonl"),
        (100, "folds.npy"),
        (1_000_000, "classifier.pt"),
    ],
)
def test_a_classifier(world, capsys, monkeypatch, size, name):
    runs = Path("runs/classifier-byol-frozen")
    assert classify(world) == 0
    earlier = (runs / "summary.json").read_bytes()
    more = ["--folds", "0", "--epochs", "300"] if name.startswith("metrics") else []
    if name == "folds.npy":  # the shortest of the files, and not the first
        monkeypatch.setattr("byol.run.about.write_json", lambda *_: None)
    with longest_file(size):
        code = classify(world, "--seed", "0", "--overwrite", *more)
        fails(capsys, code, f"{runs}/{name} (File too large)")
    assert half_written() == []
    assert (runs / "summary.json").read_bytes() == earlier
    assert torch.load(runs / "classifier.pt", weights_only=True)["kind"] == "byol-classifier"
    assert classify(world) == 0
    again = json.loads((runs / "summary.json").read_bytes())
    assert again["test_accuracy"] == json.loads(earlier)["test_accuracy"]


def test_tables(world, capsys):
    judge = [str(world / "byol.pt"), "--labels", "8", "--seeds", "1", "--frozen-only"]
    judge += ["--amp", "off"]
    for size, name in ((20, "md"), (1500, "json"), (9000, "png")):
        with longest_file(size):
            fails(capsys, evaluate.main(judge), f"evaluation/unfinished.{name} (File too large)")
        assert half_written() == []
    assert evaluate.main(judge) == 0


def test_pictures(world, capsys):
    assert classify(world) == 0
    assert plot_losses.main([]) == 0
    earlier = Path("plots/accuracy.png").read_bytes()
    for size in (0, 5000):
        with longest_file(size):
            fails(capsys, plot_losses.main([]), "plots/accuracy.png (File too large)")
        assert half_written() == []
        assert Path("plots/accuracy.png").read_bytes() == earlier
