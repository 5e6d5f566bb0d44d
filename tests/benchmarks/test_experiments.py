"""The search for a recipe: good features from bad; what a list means; stopped and resumed."""

import csv
import json
import os
import signal
import sys
import threading
import time

import pytest
import torch

import train_byol
import train_classifier
from byol.command_line import parse
from byol.config import PretrainConfig
from byol.evaluation import linear_and_knn
from experiments import calibration, pretraining, target_directions

LISTS = ("recipes_64.toml", "recipes_cifar10.toml")
CHILD = """
import os, pathlib, signal, sys, time
number, ready = int(sys.argv[1]), pathlib.Path(sys.argv[2])
signals = []
signal.signal(number, lambda *_: signals.append(number))
ready.write_text(str(os.getpgid(0)))
while not signals:
    time.sleep(0.01)
time.sleep(0.2)  # it saves; a second signal would be noted meanwhile
ready.unlink()
sys.exit(128 + sum(signals))
"""


def test_the_judge_tells_good_features_from_bad(monkeypatch):
    monkeypatch.setattr(linear_and_knn, "STRENGTHS", [1000.0, 30.0])  # quick
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(250) % 2
    noise = torch.randn(250, 20, generator=draw)
    assert 0.4 < pretraining.cross_validate(noise, labels, [20]) < 0.6
    noise[:, 3] += 10 * labels
    assert pretraining.cross_validate(noise, labels, [20]) == 1
    # each image is left out once: one whose label is wrong is never got right
    labels[:10] = 1 - labels[:10]
    assert pretraining.cross_validate(noise, labels, [20]) == pytest.approx(240 / 250, abs=0.013)


def test_each_image_has_a_fold_and_each_class_is_spread_evenly():
    labels = torch.tensor([0, 1, 1, 0, 2, 1, 0, 0, 1, 2, 0, 1])
    folds = pretraining.folds_of(labels)
    assert len(folds) == 12
    assert set(folds.tolist()) == set(range(pretraining.FOLDS))
    for label in range(3):
        counts = torch.bincount(folds[labels == label], minlength=pretraining.FOLDS)
        assert counts.max() - counts.min() <= 1


# ---- what a list means


def test_base_says_what_the_lists_leave_open():
    config, _ = parse(PretrainConfig, pretraining.flags_of({"image_size": 32}))
    assert (config.recipe, config.losses, config.solarize) == ("photos", "classic", None)
    assert (config.view_side, config.hidden_dim, config.tau0) == (32, 4096, 0.99)
    assert (config.epochs, config.batch_size, config.optimizer) == (300, 256, "sgd")
    assert (config.warmup_epochs, config.lr, config.weight_decay) == (10, None, None)


@pytest.mark.parametrize("name", LISTS)
def test_every_listed_run_has_settings_that_there_are(name):
    runs = pretraining.read_list(pretraining.BASE.with_name(name), ("name", "seeds", "judged_at"))
    for run in runs:
        config, _ = parse(PretrainConfig, pretraining.flags_of(run["settings"]))
        for key, value in run["settings"].items():
            assert getattr(config, key) == value, (run["name"], key)


def test_every_listed_run_is_known_by_its_recorded_rows(root):
    table = root / "results" / "experiments.csv"
    for name in LISTS:
        path = pretraining.BASE.with_name(name)
        for run in pretraining.read_list(path, ("name", "seeds", "judged_at")):
            for seed in run["seeds"]:
                assert pretraining.has_rows(table, run["settings"], run=f"{run['name']}-seed{seed}")


def test_a_recorded_run_is_known_by_the_names_that_settings_had(tmp_path):
    before = {"image_size": 64, "first_size": 32, "tap_grid": [2, 4], "compile": False}
    now = {"image_size": 64, "view_size": 32, "inner_grids": [2, 4]}
    pretraining.append(tmp_path / "table.csv", [{"run": "a", "settings": json.dumps(before)}])
    assert pretraining.has_rows(tmp_path / "table.csv", now, run="a")
    assert not pretraining.has_rows(tmp_path / "table.csv", now, run="b")


# ---- a list is run


@pytest.fixture
def a_list(in_tmp):
    path = in_tmp / "list.toml"
    path.write_text(
        "all = {image_size = 32, store_size = 32, batch_size = 8, hidden_dim = 16, labels = 12, "
        "projection_dim = 8, epochs = 1, seeds = [0, 1], judged_at = [32]}\n"
        '[[run]]\nname = "one"\n'
        '[[run]]\nname = "two"\nlr = 0.1\nseeds = [0]\njudged_at = [32, 40]\n'
    )
    return path


def shape_of(features, labels, widths) -> float:
    """Stand for `cross_validate`: check what it gets, and tell one representation from another."""
    assert features.shape == (12, sum(widths))
    assert labels.shape == (12,)
    return len(widths) / 4


def test_a_list_is_run_once(a_list, photos, in_tmp, few_layers, monkeypatch, capfd):
    monkeypatch.setattr(pretraining, "DRAWS", range(2))
    monkeypatch.setattr(pretraining, "cross_validate", shape_of)
    monkeypatch.setattr(
        pretraining, "run_and_pass_signals_on", lambda command: train_byol.main(command[2:])
    )
    table = in_tmp / "table.csv"
    command = [str(a_list), "--data", str(photos), "--out", str(table)]
    command += ["--runs", str(in_tmp / "runs")]

    assert not pretraining.main([*command, "--only", "one"])
    rows = list(csv.DictReader(table.open()))
    assert [row["run"] for row in rows[::2]] == ["one-seed0", "one-seed1"]
    assert [row["representation"] for row in rows] == ["avgpool", "combined"] * 2
    assert [row["accuracy"] for row in rows] == ["25.0", "75.0"] * 2
    assert {row["steps"] for row in rows} == {"2"}
    assert json.loads(rows[0]["settings"])["hidden_dim"] == 16
    config = json.loads((in_tmp / "runs" / "one-seed1" / "config.json").read_text())
    assert (config["losses"], config["seed"]) == ("classic", 1)

    before = table.read_text()
    assert not pretraining.main(command)  # adds what is missing, and nothing else
    assert table.read_text().startswith(before)
    added = list(csv.DictReader(table.open()))[4:]
    assert [(row["run"], row["judged_at"]) for row in added[::2]] == [
        ("two-seed0", "32"), ("two-seed0", "40"),
    ]  # fmt: skip

    monkeypatch.setattr(pretraining, "pretrain", None)  # nothing is left to train
    assert not pretraining.main(command)
    a_list.write_text(a_list.read_text().replace("lr = 0.1", "lr = 0.2"))
    capfd.readouterr()
    assert pretraining.main(command) == 2
    said = capfd.readouterr().err
    assert "two-seed0" in said
    assert "other settings" in said


def test_a_run_that_was_stopped_ends_the_search_and_goes_on(a_list, in_tmp, monkeypatch):
    commands = []
    monkeypatch.setattr(
        pretraining, "run_and_pass_signals_on", lambda command: commands.append(command) or 143
    )
    search = [str(a_list), "--data", "photos", "--runs", str(in_tmp / "runs")]
    search += ["--out", str(in_tmp / "table.csv")]
    with pytest.raises(SystemExit) as stopped:
        pretraining.main(search)
    assert stopped.value.code == 143
    state = in_tmp / "runs" / "one-seed0" / "last.pt"
    state.parent.mkdir(parents=True)
    state.touch()
    with pytest.raises(SystemExit):
        pretraining.main(search)
    assert commands[1] == [*commands[0], "--resume"]
    assert not (in_tmp / "table.csv").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_passed_on_once_and_the_run_is_waited_for(number, tmp_path):
    ready = tmp_path / "ready"
    groups = []

    def send_when_ready() -> None:
        while not (ready.exists() and ready.read_text()):
            time.sleep(0.01)
        groups.append(int(ready.read_text()))
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    sender = threading.Thread(target=send_when_ready)
    sender.start()
    command = [sys.executable, "-c", CHILD, str(int(number)), str(ready)]
    assert pretraining.run_and_pass_signals_on(command) == 128 + number
    sender.join()
    assert not ready.exists()  # what it does after the signal is done
    assert groups != [os.getpgid(0)]  # a signal to our group does not reach it by itself
    assert signal.getsignal(number) == before


def test_the_area_under_the_curve_counts_pairs():
    inside, outside = torch.tensor([0.1, 0.4, 0.4]), torch.tensor([0.4, 0.9])
    assert calibration.auc(inside, outside) == pytest.approx((1 + 0.5 + 0.5 + 3) / 6)


def test_calibration_is_measured_on_what_the_classifier_did_not_see(photos, in_tmp, capsys):
    run = ["--data", str(photos), "--labels", "16", "--image-size", "32", "--store-size", "32",
           "--init", "random", "--freeze", "--epochs", "2", "--amp", "off"]  # fmt: skip
    assert train_classifier.main(run) == 0
    capsys.readouterr()
    model = "runs/classifier-random-frozen/classifier.pt"
    flags = ["--data", str(photos), "--labels", "16", "--others", str(photos)]
    assert calibration.main([model, *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| 16 photos of ")
    assert len([line for line in lines if "calibration error at temperature" in line]) == 2
    assert any("more unlike than a photo of --data" in line for line in lines)


def test_directions_of_unit_vectors_along_three_axes():
    """80, 16 and 4 of 100 along an axis each, both ways; along the third the views disagree."""
    half = torch.eye(4)[[0] * 40 + [1] * 8 + [2] * 2]
    one = torch.cat([half, -half])
    other = 3 * one * torch.tensor([1, 1, -1, 1])
    counts, agreement = target_directions.directions(one, other)
    assert counts == [2, 3, 3]
    assert agreement[:3] == pytest.approx([1, 1, -1])
