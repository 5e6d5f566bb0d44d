"""The benchmarks run, and their figures agree with each other and with what is known."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from photo_files import cartoon_folder

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
PARTS = ("wait_for_photos", "augment", "forward_backward", "optimizer_and_average")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return cartoon_folder(tmp_path_factory.mktemp("benchmarks"), train=40, test=8)


def run(name, cache, *flags):
    """The JSON line of a benchmark; `{commit, torch, ...}` is in each."""
    command = [sys.executable, str(FOLDER / f"{name}.py"), *map(str, flags)]
    environment = {**os.environ, "BYOL_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    result = json.loads(line)
    assert {"python", "torch", "numpy", "commit"} <= result.keys()
    return result


def test_train_step(photos, tmp_path):
    flags = "--image-size 64 --batch-size 8 --hidden-dim 64 --optimizer sgd --steps 3 --rounds 1"
    result = run("train_step", tmp_path, "--data", photos, "--device", "cpu", *flags.split())
    whole, bare = result["images_per_second"], result["images_per_second_bare"]
    assert result["ratio_to_bare"] == pytest.approx(whole / bare, rel=0.02)
    assert result["seconds_per_epoch_of_24750"] == pytest.approx(24_750 / whole, rel=0.02)
    parts = [result["milliseconds"][part] for part in PARTS]
    assert all(part >= 0 for part in parts)
    assert sum(parts) == pytest.approx(8000 / whole, rel=0.3)  # medians of few steps
    share = (parts[0] + parts[1]) * whole / 8000
    assert result["share_of_data_and_augmentation"] == pytest.approx(share, abs=0.02)
    # ResNet-18 takes 1.814e9 multiplications at 224 px; two views, two networks, forward once each
    # and the online one backward, which is twice its forward: 8 times
    known = 8 * 2 * 1.814 * (64 / 224) ** 2
    assert result["gflops_per_image"] == pytest.approx(known, rel=0.05)
    assert 0.1 < result["estimated_memory_gib"] < result["peak_memory_gib"] < 4


def test_step(tmp_path):
    flags = "--image-size 32 --batch-size 4 --hidden-dim 32 --rounds 1"
    result = run("step", tmp_path, *flags.split())
    for name in ("pass_for_each_view", "inner_losses", "plain_convolutions"):
        ratio = result["one_pass_images_per_second"] / result[f"{name}_images_per_second"]
        assert result[f"times_{name}"] == pytest.approx(ratio, abs=0.02)


def test_evaluation(photos, tmp_path):
    result = run(
        "evaluation", tmp_path, "--data", photos, "--image-size", 32, "--rounds", 1,
        "--labels", 10, "--device", "cpu",
    )  # fmt: skip
    whole = result["seconds_features"] + result["seconds_linear_and_knn"]
    assert result["photos"] == 48
    assert result["times_bare_forward"] > whole / (result["seconds_bare_forward"] + 0.01) - 0.1


def test_packing(photos, tmp_path):
    result = run(
        "packing", tmp_path / "cache", "--data", photos, "--count", 60, "--store-size", 32,
        "--rounds", 1, "--folder", tmp_path,
    )  # fmt: skip
    assert (result["count"], result["pixels"]) == (60, [500, 375])
    assert result["photos_per_second"] > 10
    assert list(tmp_path.iterdir()) == []  # nothing is left behind


def test_scale(tmp_path):
    result = run("scale", tmp_path / "cache", "--counts", 400, "--steps", 1, "--rounds", 1,
                 "--folder", tmp_path)  # fmt: skip
    assert [size["count"] for size in result["sizes"]] == [400]
    for size in result["sizes"]:
        assert 0 < size["seconds_to_open"] < 0.2
        assert 0.1 < size["peak_rss_anon_gib"] < 4
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(
    importlib.util.find_spec("lightly") is None or importlib.util.find_spec("byol_pytorch") is None,
    reason="needs pip install -r benchmarks/requirements.txt",
)
def test_peers(photos, tmp_path):
    flags = "--image-size 32 --batch-size 4 --hidden-dim 32 --workers 1 --steps 1 --warmup 1"
    result = run("peers", tmp_path, "--data", photos / "train", "--rounds", 1, *flags.split())
    speeds = result["images_per_second"]
    assert list(speeds) == ["byol", "lightly", "byol-pytorch", "lightly-fast", "byol-pytorch-fast"]
    for name, speed in speeds.items():
        assert result["times"][name] == pytest.approx(speeds["byol"] / speed, rel=0.05)
