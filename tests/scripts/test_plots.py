"""`plot_losses.py`: what it draws, and what it says of runs that it leaves out."""

import json
import os
import shutil
from pathlib import Path

import pytest
from narrow_encoder import narrow
from refusals import fails

import plot_losses
import train_classifier


@pytest.fixture(autouse=True)
def _not_drawn(no_drawing):
    """The pictures themselves are looked at in test_pictures.py."""


@pytest.fixture(scope="module")
def frozen(narrow_run, tmp_path_factory) -> dict:
    """The summary of a frozen run."""
    folder = tmp_path_factory.mktemp("frozen")
    flags = ["--init", str(narrow_run.folder / "byol.pt"), "--freeze", "--run-dir", str(folder),
             "--epochs", "3", "--batch-size", "4", "--amp", "off", "--device", "cpu"]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        narrow(patch)
        assert train_classifier.main(flags) == 0
    return json.loads((folder / "summary.json").read_text())


def write_run(name: str, summary: dict) -> Path:
    folder = Path("runs") / name
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_what_is_missing_is_named_and_the_rest_is_drawn(frozen, capsys):
    write_run("classifier-byol-frozen", frozen)
    damaged = Path("runs/damaged")
    damaged.mkdir()
    (damaged / "metrics.jsonl").write_text('{"epoch": 1, "loss": 1}\n')
    (damaged / "summary.json").write_text("{")
    capsys.readouterr()
    assert plot_losses.main([]) == 0
    captured = capsys.readouterr()
    assert "random frozen backbone" in captured.err
    assert "pretraining" in captured.err
    assert "damaged" in captured.err
    assert Path("plots/loss2.png").is_file()
    assert not Path("plots/loss1.png").exists()


def test_runs_that_do_not_compare_are_left_out(frozen, capsys):
    """The newest says which labels and which weights count."""
    write_run("classifier-byol-frozen", {**frozen, "labels": 4})
    write_run("classifier-byol-frozen-seed1", {**frozen, "seed": 1})
    other = {**frozen["run"], "weights": "others"}
    write_run("classifier-byol-frozen-seed2", {**frozen, "seed": 2, "run": other})
    assert plot_losses.main([]) == 0
    captured = capsys.readouterr()
    labels, weights = (line for line in captured.err.splitlines() if line.startswith("left out"))
    assert "labels" in labels
    assert labels.endswith(": classifier-byol-frozen")
    assert "other BYOL weights than the newest run" in weights
    assert weights.endswith(": classifier-byol-frozen-seed1")
    assert "seeds" not in captured.out


def test_a_run_of_other_settings_and_the_same_seed_again_are_no_further_seeds(frozen, capsys):
    write_run("other", {**frozen, "seed": 1, "run": {**frozen["run"], "frozen_lr": 0.5}})
    write_run("once", frozen)
    write_run("again", frozen)
    write_run("seed2", {**frozen, "seed": 2})
    for age, name in enumerate(("other", "once", "again", "seed2")):
        os.utime(f"runs/{name}/summary.json", (1e9 + age, 1e9 + age))
    assert plot_losses.main([]) == 0
    captured = capsys.readouterr()
    settings, repeats = (line for line in captured.err.splitlines() if line.startswith("left out"))
    assert "trained with frozen_lr 0.5" in settings
    assert settings.endswith(": other")
    assert repeats == "left out, the same seed again: once"
    assert "(2 seeds)" in captured.out


def test_runs_of_earlier_versions_are_read(frozen, narrow_run, capsys):
    """`representation` was called `features`, and was no choice before; rows had their own file."""
    old = {key: value for key, value in frozen.items() if key != "representation"}
    write_run("classifier-byol-frozen", {**old, "features": "avgpool"})
    rows = old.pop("curve")
    folder = write_run("classifier-byol-frozen-seed1", {**old, "seed": 1})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.copytree(narrow_run.folder / "runs" / "byol", "runs/byol", ignore=lambda *_: ["last.pt"])
    assert plot_losses.main([]) == 0
    captured = capsys.readouterr()
    assert "left out" not in captured.err
    assert "(2 seeds)" in captured.out
    assert Path("plots/pretraining.png").is_file()


def test_plots_without_runs(capsys, tmp_path):
    fails(capsys, plot_losses.main([]), "runs")
    (tmp_path / "runs").mkdir()
    fails(capsys, plot_losses.main([]), "no finished run")
