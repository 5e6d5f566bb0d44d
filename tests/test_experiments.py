"""The search for a recipe: good features from bad; stopped and resumed."""

import csv
import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from photo_files import cartoon_folder
from processes import wait_for
from refusals import fails

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def experiments():
    sys.path.insert(0, str(FOLDER))  # it imports benchmarks/common.py by its bare name
    yield importlib.import_module("experiments")
    sys.path.remove(str(FOLDER))


def test_the_judge_tells_good_features_from_bad(experiments):
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(250) % 2
    noise = torch.randn(250, 20, generator=draw)
    assert 0.4 < experiments.cross_validate(noise, labels, [20]) < 0.6
    noise[:, 3] += 10 * labels
    assert experiments.cross_validate(noise, labels, [20]) == 1
    # each image is left out once: one whose label is wrong is never got right
    labels[:10] = 1 - labels[:10]
    assert experiments.cross_validate(noise, labels, [20]) == pytest.approx(240 / 250, abs=0.013)


@pytest.fixture
def a_list(tmp_path):
    path = tmp_path / "list.toml"
    path.write_text(
        "all = {image_size = 32, store_size = 32, batch_size = 8, hidden_dim = 16, labels = 12, "
        'projection_dim = 8, epochs = 1, optimizer = "sgd", seeds = [0, 1], judged_at = [32]}\n'
        '[[run]]\nname = "one"\n'
        '[[run]]\nname = "two"\nlr = 0.1\nseeds = [0]\njudged_at = [32, 40]\n'
    )
    return path


def test_a_list_is_run_once(experiments, a_list, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("BYOL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(experiments, "DRAWS", range(2))
    photos = cartoon_folder(tmp_path / "photos", train=30, test=4)
    table = tmp_path / "table.csv"
    command = [str(a_list), "--data", str(photos), "--out", str(table)]
    command += ["--runs", str(tmp_path / "runs")]

    assert not experiments.main([*command, "--only", "one"])
    rows = list(csv.DictReader(table.open()))
    assert [row["run"] for row in rows[::2]] == ["one-seed0", "one-seed1"]
    assert [row["representation"] for row in rows] == ["avgpool", "combined"] * 2
    assert all(int(row["steps"]) == 2 and float(row["accuracy"]) <= 100 for row in rows)
    assert json.loads(rows[0]["settings"])["hidden_dim"] == 16

    before = table.read_text()
    assert not experiments.main(command)  # adds what is missing, and nothing else
    assert table.read_text().startswith(before)
    added = list(csv.DictReader(table.open()))[4:]
    assert [(row["run"], row["judged_at"]) for row in added[::2]] == [
        ("two-seed0", "32"), ("two-seed0", "40"),
    ]  # fmt: skip

    monkeypatch.setattr(experiments.subprocess, "Popen", None)  # nothing is left to train
    assert not experiments.main(command)
    a_list.write_text(a_list.read_text().replace("lr = 0.1", "lr = 0.2"))
    fails(capfd, experiments.main(command), "two-seed0", "other settings")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_has_the_run_saved_and_is_waited_for(a_list, tmp_path, number):
    long = a_list.read_text().replace("epochs = 1,", "epochs = 10000, log_every = 1,")
    a_list.write_text(long)
    photos = cartoon_folder(tmp_path / "photos", train=30, test=4)
    run = tmp_path / "runs" / "one-seed0"
    metrics = run / "metrics.jsonl"
    process = subprocess.Popen(
        [sys.executable, str(FOLDER / "experiments.py"), str(a_list), "--data", str(photos),
         "--out", str(tmp_path / "table.csv"), "--runs", str(tmp_path / "runs")],
        env=os.environ | {"BYOL_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    wait_for(lambda: metrics.exists() and metrics.stat().st_size, process)  # the loop runs
    os.killpg(process.pid, number)  # as a terminal and `timeout` do
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number, said
    assert "interrupted: saved at step" in said
    assert "Traceback" not in said
    assert (run / "last.pt").exists()
    assert not (run / "byol.pt").exists()
