"""What others do to the files of a run while it runs: real processes, real files."""

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from processes import wait_for

import evaluate
import plot_losses
import train_byol
import train_classifier
from byol.run.metrics import read_jsonl

ROOT = Path(__file__).resolve().parent.parent.parent
pytestmark = pytest.mark.hazard
TINY = ["--labels", "8", "--image-size", "32", "--store-size", "32", "--hidden-dim", "32",
        "--projection-dim", "16", "--batch-size", "8", "--log-every", "2", "--optimizer", "sgd",
        "--recipe", "cartoons", "--amp", "off", "--device", "cpu",
        "--save-every", "0"]  # fmt: skip


@pytest.fixture(autouse=True)
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BYOL_CACHE", "cache")


def started(script, *flags, **how):
    return subprocess.Popen(
        [sys.executable, str(ROOT / script), *map(str, flags)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **how,
    )  # fmt: skip


def error_of(process) -> str:
    """The one sentence of a process that ends with exit code 2."""
    _, said = process.communicate(timeout=120)
    assert process.returncode == 2, (process.returncode, said)
    assert "Traceback" not in said
    errors = [line for line in said.splitlines() if "error" in line]
    assert len(errors) == 1, said
    return errors[0]


# ---- the pack ----


def cut(path):
    os.truncate(path, 4096)


def overwrite(path):
    path.write_bytes(path.read_bytes())  # cut first, then written: as `cp` does


def change(path):
    with open(path, "r+b") as file:
        file.seek(5000)
        file.write(b"x")


@pytest.mark.parametrize("harm", [cut, overwrite, change])
def test_a_pack_that_is_cut_or_written_to_under_a_run(photos, harm):
    run = started("train_byol.py", "--data", photos, *TINY, "--epochs", 400)
    metrics = Path("runs/byol/metrics.jsonl")
    wait_for(lambda: metrics.exists() and len(read_jsonl(metrics)) >= 4, run)
    (images,) = Path("cache").glob("*/images.npy")
    harm(images)
    error = error_of(run)
    assert f"{images.resolve()} was " in error
    assert f"remove the folder {images.parent.resolve()}" in error
    assert torch.load("runs/byol/last.pt", weights_only=True)["step"] >= 3


def test_a_pack_that_is_deleted_under_a_run_is_read_on(photos):
    flags = ["--data", photos, *TINY, "--epochs", 3]
    run = started("train_byol.py", *flags)
    wait_for(Path("runs/byol/metrics.jsonl").exists, run, every=0.001)
    for pack in Path("cache").iterdir():
        shutil.rmtree(pack)
    _, said = run.communicate(timeout=120)
    assert run.returncode == 0, said
    again = started("train_byol.py", *flags, "--run-dir", "other", "--out", "other.pt")
    _, said = again.communicate(timeout=120)
    assert again.returncode == 0, said
    one, other = (torch.load(f, weights_only=True)["encoder"] for f in ("byol.pt", "other.pt"))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_the_other_columns_are_read_at_the_start(photos):
    run = started("train_byol.py", "--data", photos, *TINY, "--epochs", 3)
    wait_for(Path("runs/byol/metrics.jsonl").exists, run, every=0.001)
    for name in ("labels.npy", "sizes.npy", "names.npy", "by_name.npy", "is_test.npy"):
        os.truncate(next(Path("cache").glob(f"*/{name}")), 0)
    _, said = run.communicate(timeout=120)
    assert run.returncode == 0, said


# ---- folders that may not be written to, and odd names ----


def as_any_user():
    """Root too may only do what the modes of files say: CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH."""
    for capability in (1, 2):
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP, as of the next exec


def opened(folder) -> subprocess.Popen:
    return started("tests/open_photos.py", folder, preexec_fn=as_any_user)


def test_a_data_folder_that_may_not_be_written_to(photos, tmp_path):
    root = shutil.copytree(photos, tmp_path / "photos")
    (root / "train").rename(root / "training")
    for folder in (*root.rglob("*/"), root):
        folder.chmod(0o555)
    said, errors = opened(root).communicate(timeout=60)
    assert (said, errors) == ("44 photos\n", "")
    assert len(list(Path("cache").iterdir())) == 1


def test_a_cache_that_may_not_be_written_to(photos):
    Path("cache").mkdir(mode=0o555)
    error = error_of(opened(photos))
    assert "cannot write to the cache folder" in error
    assert "(Permission denied); set BYOL_CACHE" in error


def test_a_file_and_a_folder_that_may_not_be_read(photos, tmp_path):
    root = shutil.copytree(photos, tmp_path / "photos")
    next(root.rglob("*.png")).chmod(0)
    said, errors = opened(root).communicate(timeout=60)
    assert said == "43 photos\n"
    assert "cannot be read: Permission denied" in errors
    (root / "test").chmod(0)
    assert "cannot list" in error_of(opened(root))


def test_control_characters_never_reach_the_terminal(photos, tmp_path, capfd):
    odd = str(shutil.copytree(photos, tmp_path / "odd\x1b[31m\nname"))
    code = train_byol.main(["--data", odd, *TINY, "--epochs", "1", "--run-dir", "r\x1b[0m"])
    assert code == 0
    assert train_classifier.main(["--data", odd, "--epochs", "1", "--freeze", "--labels", "8",
                                  "--image-size", "32", "--store-size", "32"]) == 0  # fmt: skip
    assert train_classifier.main(["--data", odd, "--labels", "0"]) == 2
    assert evaluate.main(["byol.pt", "--labels", "8", "--seeds", "1", "--frozen-only"]) == 0
    assert plot_losses.main(["--runs", "no\x1b[31m"]) == 2
    told = capfd.readouterr()
    for text in (told.out, told.err):
        assert "\x1b[31m" not in text
        assert "\x1b[0m" not in text
    assert "odd\\x1b[31m\\nname" in told.err
