"""The benchmarks run, and their figures agree with each other and with what is known."""

import contextlib
import importlib.util
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import predict
import train_byol
import train_classifier
from benchmarks import (
    augment,
    evaluation,
    long_photos,
    packing,
    peers,
    prediction,
    reading,
    scale,
    speedrun,
    step_parts,
    step_variants,
)
from benchmarks.common import ROOT
from byol.command_line import parse
from byol.config import PretrainConfig
from byol.encoder import Encoder
from byol.evaluation.classifier import Classifier
from data import shards

TRAINER = """
import json, pathlib, sys, time
run = pathlib.Path(sys.argv[sys.argv.index("--run-dir") + 1])
run.mkdir(parents=True)
held = bytearray(b"x") * 300_000_000
with open(run / "metrics.jsonl", "a") as file:
    for step in range(1000):
        time.sleep(0.1)
        print(json.dumps({"step": step, "images_per_second": 77.0}), file=file, flush=True)
"""
PREDICTOR = """
import json, sys, time
held = bytearray(b"x") * 300_000_000
time.sleep(0.5)
json.dump(sys.argv[1:], open("flags.json", "w"))
"""


@pytest.fixture
def run(in_tmp, capsys):
    """Run a benchmark with flags: the result that it prints."""

    def run(benchmark, *flags) -> dict:
        assert benchmark.main([*map(str, flags)]) == 0
        (line,) = capsys.readouterr().out.splitlines()
        result = json.loads(line)
        assert {"python", "torch", "numpy", "commit"} <= result.keys()
        return result

    return run


def test_the_parts_of_a_step_add_up_to_it(photos, run):
    flags = "--image-size 64 --batch-size 4 --hidden-dim 64 --losses classic --device cpu"
    result = run(step_parts, "--data", photos, *flags.split(), "--steps", 2, "--rounds", 1)
    speed, bare_speed = result["images_per_second"], result["images_per_second_bare"]
    assert result["ratio_to_bare"] == pytest.approx(speed / bare_speed, rel=0.02)
    assert result["seconds_per_epoch_of_24750"] == pytest.approx(24_750 / speed, rel=0.02)
    parts = [result["milliseconds"][part] for part in step_parts.PARTS]
    assert all(part >= 0 for part in parts)
    assert sum(parts) == pytest.approx(4000 / speed, rel=0.02)  # medians of two add up
    share = (parts[0] + parts[1]) * speed / 4000
    assert result["share_of_data_and_augmentation"] == pytest.approx(share, abs=0.02)
    # ResNet-18 takes 1.814e9 multiplications at 224 px; two views, two networks, forward once each
    # and the online one backward, which is twice its forward: 8 times
    known = 8 * 2 * 1.814 * (64 / 224) ** 2
    assert result["gflops_per_image"] == pytest.approx(known, rel=0.05)
    assert 0.1 < result["peak_memory_gib"] < 16


def test_the_parts_of_a_step_are_timed_on_noise_as_well(run, few_layers):
    flags = "--image-size 32 --batch-size 4 --hidden-dim 16 --losses multi --device cpu"
    result = run(step_parts, *flags.split(), "--steps", 1, "--rounds", 1)
    assert result["data"] == "noise"
    assert result["images_per_second"] > 0


def test_step_parts_takes_the_flags_of_training_but_times_no_micro_batches(in_tmp, capsys):
    assert step_parts.main(["--accumulate", "2"]) == 2
    assert "--accumulate" in capsys.readouterr().err


def test_each_variant_of_a_step_is_compared_with_the_first(run, few_layers):
    flags = "--image-size 32 --batch-size 4 --hidden-dim 32 --rounds 1"
    result = run(step_variants, *flags.split())
    for name in ("pass_for_each_view", "inner_losses", "plain_convolutions"):
        ratio = result["one_pass_images_per_second"] / result[f"{name}_images_per_second"]
        assert result[f"times_{name}"] == pytest.approx(ratio, abs=0.02)


def test_long_photos_keep_more_detail_in_their_own_shape(photos, run):
    flags = "--count 2 --image-size 40 --store-size 48 --rounds 1"
    result = run(long_photos, "--data", photos, *flags.split())
    assert result["detail"].keys() == {"1:1", "4:3", "3:2", "16:9", "3:1"}
    for shape, kept in result["detail"].items():
        assert list(kept) == ["48 x 48", "48 x 72", "48 x 88"]
        assert 0.2 < min(kept.values()) <= max(kept.values()) <= 1
        if shape in ("16:9", "3:1"):
            assert kept["48 x 48"] < min(kept["48 x 72"], kept["48 x 88"])
    assert result["detail"]["16:9"]["48 x 88"] > 0.9 > result["detail"]["16:9"]["48 x 48"]
    assert result["view_time"]["48 x 48"] == 1


def test_the_views_are_compared_with_those_of_pil(run):
    flags = "--image-size 32 --store-size 40 --batch 4 --rounds 1"
    result = run(augment, *flags.split())
    ratio = result["views_per_second"] / result["views_per_second_pil"]
    assert result["ratio_to_pil"] == pytest.approx(ratio, abs=0.02)


def test_evaluation_is_compared_with_bare_forward_passes(photos, few_layers, run):
    flags = "--image-size 32 --rounds 1 --labels 10 --device cpu"
    result = run(evaluation, "--data", photos, *flags.split())
    seconds = result["seconds_features"] + result["seconds_linear_and_knn"]
    assert result["photos"] == 44
    assert result["times_bare_forward"] > seconds / (result["seconds_bare_forward"] + 0.01) - 0.1


def test_prediction_is_compared_with_packing_and_bare_forward_passes(
    photos, in_tmp, few_layers, run, monkeypatch
):
    (in_tmp / "predict.py").write_text(PREDICTOR)
    monkeypatch.setattr(prediction, "ROOT", in_tmp)
    settings = {"arch": "resnet18", "stem": "imagenet", "image_size": 32, "mean": [0.5] * 3,
                "std": [0.25] * 3, "channels": "colour"}  # fmt: skip
    classifier = Classifier(Encoder(), {}, ["cat", "dog"], settings)
    classifier.stored_shape = (40, 40)
    classifier.save("c.pt", {})
    result = run(prediction, "--data", photos, "--model", "c.pt", "--rounds", "1")
    beyond = result["seconds_packing"] + result["seconds_bare_forward"]
    assert result["photos"] == 44
    assert result["times_packing_and_forward"] == pytest.approx(
        result["seconds_predict"] / beyond, rel=0.1
    )
    assert result["seconds_predict"] >= 0.5
    assert result["peak_gib_of_predict"] > 0.28  # what ran before in this process may be more
    flags = json.loads((in_tmp / "flags.json").read_text())
    assert predict.main([*flags, "--out", "classes.csv"]) == 0


def test_packing_counts_photos_and_leaves_nothing_behind(photos, in_tmp, run):
    flags = "--count 50 --store-size 32 --rounds 1"
    result = run(packing, "--data", photos, "--folder", in_tmp, *flags.split())
    assert (result["count"], result["pixels"]) == (50, [500, 375])
    assert result["photos_per_second"] > 10
    assert list(in_tmp.iterdir()) == []


def test_reading_compares_the_kinds_of_packs(photos, in_tmp, run):
    result = run(reading, "kinds", "--data", photos, "--store-sizes", 40, "--batch", 8,
                 "--rounds", 2)  # fmt: skip
    (size,) = result["sizes"]
    assert (size["store_size"], size["photos"]) == (40, 44)
    assert size["raw"]["mb_per_1000_photos"] == 4.8  # 3 x 40 x 40 bytes
    assert size["jpeg"]["mb_per_1000_photos"] < 2.4
    assert all(size[kind]["photos_per_second_of_a_core"] > 0 for kind in ("raw", "jpeg"))


def test_reading_counts_what_comes_from_a_disk(in_tmp, run):
    flags = ["--gb", 0.002, "--batch", 16, "--rounds", 4, "--photo-bytes", 5000, "--step-ms", 5]
    (size,) = run(reading, "disk", *flags)["sizes"]
    ways = {name: figures for name, figures in size.items() if isinstance(figures, dict)}
    assert len(ways) == 7
    for name, figures in ways.items():
        assert figures["photos_per_second"] == pytest.approx(16e3 / figures["ms"], rel=0.5)
        assert figures["mb_from_disk"] >= 0
        assert name[:6] == "mapped" or figures["ms_of_a_step_with_the_next_read_ahead"] >= 5
    assert not list(in_tmp.iterdir())


def test_reading_reads_the_same_rows_in_each_way(tmp_path):
    array = reading.write_noise(tmp_path / "a.npy", 5000, 200_000)
    assert (len(array), len(np.unique(array[:][:, :8], axis=0))) == (40, 40)
    rows = np.array([7, 3, 39, 0])
    for name, read in reading.ways_to_read(tmp_path / "a.npy", array.shape).items():
        out = np.empty((4, 5000), np.uint8)
        read(rows, out)
        expected = array[np.sort(rows) if "sorted" in name else rows]
        np.testing.assert_array_equal(out, expected)


def test_reading_times_the_loop_of_both_kinds(in_tmp, run, monkeypatch):
    (in_tmp / "train_byol.py").write_text(
        TRAINER.replace("300_000_000", "1").replace(
            "77.0", "float(sys.argv[sys.argv.index('--lr') + 1])"
        )
    )
    monkeypatch.setattr("benchmarks.common.ROOT", in_tmp)
    result = run(reading, "loop", "--data", "d", "--rounds", 1, "--steps", 2, "--lr", 7)
    assert result["by_round"] == {"raw": [7], "jpeg": [7]}
    assert (result["jpeg_times_raw"], result["flags"][-2:]) == (1, ["--lr", "7"])
    assert [path.name for path in in_tmp.iterdir()] == ["train_byol.py"]


def test_reading_trains_with_flags_that_there_are(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert parse(PretrainConfig, reading.SETTINGS)[0].stored_side == 72


def test_scale_reads_the_memory_of_a_process_that_trains(in_tmp, run, monkeypatch):
    (in_tmp / "train_byol.py").write_text(TRAINER)
    monkeypatch.setattr("benchmarks.common.ROOT", in_tmp)
    monkeypatch.setattr(shards, "SHARD_BYTES", shards.SHARD_BYTES)  # which it sets
    monkeypatch.setattr(scale, "in_fresh_process", lambda function, *args: function(*args))
    scratch = in_tmp / "scratch"
    scratch.mkdir()
    flags = "--counts 300 --steps 2 --rounds 1 --turns 2 --shard-mb 1"
    (size,) = run(scale, "--folder", scratch, *flags.split())["sizes"]
    assert (size["count"], size["shards"]) == (300, 2)
    assert 0 < size["seconds_to_open"] < 0.2
    assert size["seconds_to_open"] + size["seconds_to_split"] < size["seconds_to_begin"]
    assert (size["images_per_second"], size["images_per_second_by_turn"]) == (77, [77, 77])
    assert 0.28 < size["peak_rss_anon_gib"] < 0.35
    assert list(scratch.iterdir()) == []


def test_scale_calls_a_function_in_a_fresh_process():
    assert scale.in_fresh_process(pow, 2, 3) == 8


def test_scale_trains_with_flags_that_there_are(monkeypatch):
    monkeypatch.chdir(ROOT)
    config, _ = parse(PretrainConfig, scale.TRAINING.split())
    assert (config.optimizer, config.losses, config.view_side) == ("sgd", "classic", 32)


# ---- the race

TINY_RACE = ("--batch-size 8 --hidden-dim 16 --projection-dim 8 "
             "--labels 8 --holdout 8 --amp off --health-every 0")  # fmt: skip


@pytest.fixture
def scripts_here(monkeypatch) -> list[list[str]]:
    """The scripts of a race run in this process: the commands, in order."""
    commands, mains = [], {"train_byol.py": train_byol, "train_classifier.py": train_classifier}
    run = subprocess.run

    def run_here(command, **options):
        if command[0] == "git":
            return run(command, **options)
        assert options == {"stdout": 2}  # nothing of them is among the results
        commands.append(command[1:])
        with contextlib.redirect_stdout(sys.stderr):
            code = mains[Path(command[1]).name].main(command[2:])
        return subprocess.CompletedProcess(command, code)

    monkeypatch.setattr(speedrun.subprocess, "run", run_here)
    return commands


def test_a_race_trains_the_recipe_and_tests_on_photos_that_nothing_saw(
    photos, in_tmp, few_layers, run, scripts_here
):
    flags = ["--data", photos / "train", *TINY_RACE.split(), "--epochs", "2"]
    result = run(speedrun, *flags)
    pretrained, classified = (
        json.loads((in_tmp / "runs" / "speedrun" / part / "config.json").read_text())
        for part in ("byol", "classifier")
    )
    assert (pretrained["view_size"], pretrained["warmup_epochs"]) == (32, 0.5)  # the 64 px recipe
    assert pretrained["losses"] == "multi"
    assert (pretrained["init"], pretrained["epochs"], pretrained["batch_size"]) == ("random", 2, 8)
    assert (classified["freeze"], classified["representation"]) == (True, "combined")
    for config in (pretrained, classified):
        assert (config["labels"], config["holdout"], config["split_seed"]) == (8, 8, 0)
        assert config["image_size"] == 64
    assert (result["labels"], result["tested_on"].split(" (")[0]) == (8, "8 images")
    assert result["test_accuracy"] in [n / 8 for n in range(9)]
    assert result["reached_80"] == (result["test_accuracy"] >= 0.8)
    parts = result["minutes_pretraining"] + result["minutes_classifier"]
    assert result["minutes"] == pytest.approx(parts, abs=0.011)
    assert (result["epochs"], result["threads"]) == (2, 1)
    assert {"processor", "cores", "device", "load_before"} <= result.keys()

    # what was raced stays, unless it is said
    assert speedrun.main([*map(str, flags)]) == 2
    assert len(scripts_here) == 2
    again = run(speedrun, *flags, "--overwrite", "--seed", "1")
    assert (again["seed"], again["test_accuracy"] in [n / 8 for n in range(9)]) == (1, True)


def test_a_race_with_other_weights_or_labels_does_not_begin(in_tmp, scripts_here, capsys):
    (in_tmp / "own.toml").write_text('[pretrain]\ninit = "imagenet"\n')
    for flags, named in (
        (["--init", "imagenet"], "--init"),
        (["--config", "own.toml"], "--init"),
        (["--split-seed", "3"], "--split-seed"),
        (["--resume"], "--resume"),
        (["--out", "byol.pt"], "--out"),
        (["--epoch", "3"], "--epochs"),
    ):
        assert speedrun.main(flags) == 2
        assert named in capsys.readouterr().err
    assert scripts_here == []
    assert list(in_tmp.iterdir()) == [in_tmp / "own.toml"]


def test_a_race_whose_script_fails_ends_with_its_code(photos, in_tmp, monkeypatch, capsys):
    commands = []

    def fail(command, **options):
        commands.append(Path(command[1]).name)
        return subprocess.CompletedProcess(command, 143)

    monkeypatch.setattr(speedrun.subprocess, "run", fail)
    with pytest.raises(SystemExit) as stopped:
        speedrun.main(["--data", str(photos / "train"), *TINY_RACE.split()])
    assert stopped.value.code == 143
    assert (commands, capsys.readouterr().out) == (["train_byol.py"], "")


def test_a_race_that_is_stopped_says_how_to_begin_another(photos, in_tmp, monkeypatch, capsys):
    def stop(command, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(speedrun.subprocess, "run", stop)
    assert speedrun.main(["--data", str(photos / "train"), *TINY_RACE.split()]) == 130
    said = capsys.readouterr()
    assert "--overwrite" in said.err
    assert said.out == ""


@pytest.mark.slow
def test_a_race_in_processes_of_their_own(photos, in_tmp, root):
    """As on the command line: one line on stdout, and all else on stderr."""
    command = [sys.executable, "-m", "benchmarks.speedrun", "--data", photos / "train"]
    command += [*TINY_RACE.split(), "--epochs", "1", "--runs", in_tmp / "race"]
    done = subprocess.run(
        [*map(str, command)], cwd=root, capture_output=True, text=True, check=True
    )  # fmt: skip
    (line,) = done.stdout.splitlines()
    result = json.loads(line)
    assert 0 < result["minutes_classifier"] < result["minutes"] < 10
    assert "wrote " in done.stderr
    assert (in_tmp / "race" / "classifier" / "classifier.pt").exists()


def test_peers_races_the_papers_views_and_one_loss_with_sgd(
    photos, in_tmp, few_layers, monkeypatch, capfd
):
    runs = []

    def train_here(command, **_):
        runs.append(command)
        assert train_byol.main(command[2:]) == 0

    monkeypatch.setattr(peers.subprocess, "run", train_here)
    flags = "--one byol --image-size 32 --batch-size 8 --hidden-dim 32 --steps 1 --warmup 1"
    assert peers.main(["--data", str(photos / "train"), "--device", "cpu", *flags.split()]) == 0
    assert float(capfd.readouterr().out.splitlines()[-1]) > 0
    config, _ = parse(PretrainConfig, runs[0][2:])
    assert (config.recipe, config.solarize, config.losses) == ("photos", None, "classic")
    assert (config.optimizer, config.base_lr, config.decay) == ("sgd", 0.06, 2e-3)
    assert config.view_side == config.image_size == 32


def test_peers_get_photos_from_an_archive(tmp_path):
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for index in range(6):
            archive.writestr(f"Pets/{'Cat' if index % 2 else 'Dog'}/{index}.jpg", f"{index}")
        archive.writestr("Pets/Cat/empty.jpg", "")
    folder = peers.unpack(path, 4, tmp_path / "photos")
    names = [str(file.relative_to(folder)) for file in folder.rglob("*.jpg")]
    assert sorted(names) == ["Cat/1.jpg", "Cat/2.jpg", "Dog/0.jpg", "Dog/3.jpg"]
    assert peers.unpack(Path(folder), 4, tmp_path / "other") == folder
    with pytest.raises(SystemExit, match="6 photos, and 7 are needed"):
        peers.unpack(path, 7, tmp_path / "photos")


@pytest.mark.skipif(
    importlib.util.find_spec("lightly") is None or importlib.util.find_spec("byol_pytorch") is None,
    reason="needs pip install -r benchmarks/requirements.txt",
)
def test_peers_take_turns(photos, run):
    flags = "--image-size 32 --batch-size 4 --hidden-dim 32 --workers 1 --steps 1 --warmup 1"
    result = run(peers, "--data", photos / "train", "--rounds", 1, *flags.split())
    speeds = result["images_per_second"]
    assert list(speeds) == ["byol", "lightly", "byol-pytorch", "lightly-fast", "byol-pytorch-fast"]
    for name, speed in speeds.items():
        assert result["times"][name] == pytest.approx(speeds["byol"] / speed, rel=0.05)
