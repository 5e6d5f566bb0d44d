"""Classifier runs, evaluations and plots that are stopped, killed or start again."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from photo_files import cartoon_folder
from processes import wait_for
from refusals import fails

import evaluate
import plot_losses
import train_byol
import train_classifier
from byol import checkpoint, files, interrupt
from byol.metrics import read_jsonl
from byol.run_folder import holds_a_run

ROOT = Path(__file__).resolve().parent.parent
TINY = ["--image-size", "32", "--store-size", "32", "--hidden-dim", "32", "--projection-dim", "16",
        "--batch-size", "8", "--epochs", "1", "--log-every", "1", "--optimizer", "sgd",
        "--recipe", "small", "--amp", "off", "--device", "cpu", "--labels", "8"]  # fmt: skip
SETTINGS = ["--labels", "8", "--epochs", "3", "--batch-size", "4", "--amp", "off",
            "--device", "cpu"]  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder of drawings, and two checkpoints of pretraining on it."""
    folder = tmp_path_factory.mktemp("world")
    os.environ["BYOL_CACHE"] = str(folder / "cache")
    cartoon_folder(folder / "photos", train=32, test=12)
    for seed in ("0", "1"):
        out = ["--out", str(folder / f"{seed}.pt"), "--run-dir", str(folder / seed)]
        data = ["--data", str(folder / "photos")]
        assert train_byol.main([*data, *TINY, "--seed", seed, *out]) == 0
    return folder


@pytest.fixture(autouse=True)
def in_tmp(tmp_path, world, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BYOL_CACHE", str(world / "cache"))
    shutil.copy(world / "0.pt", "byol.pt")


def classify(*extra):
    return train_classifier.main(["--init", "byol.pt", *SETTINGS, *extra])


def judge(*extra):
    return evaluate.main(["byol.pt", "--labels", "8", "--seeds", "1", "--epochs", "2",
                          "--batch-size", "4", "--supervised-epochs", "3", "--amp", "off",
                          "--device", "cpu", *extra])  # fmt: skip


def stop_after(monkeypatch, steps):
    """A signal as soon as that many steps are made."""

    class Stop(interrupt.Interrupt):
        looks = 0

        def __init__(self):
            self.code = 143

        @property
        def asked(self):
            Stop.looks += 1
            return Stop.looks >= steps

    monkeypatch.setattr(train_classifier, "Interrupt", Stop)


def same_result(one, other):
    """Weights to the bit, and every number of the summary but the time."""
    a, b = (torch.load(f"{name}/classifier.pt", weights_only=True) for name in (one, other))
    for part in ("encoder", "head"):
        assert a[part].keys() == b[part].keys()
        assert all(torch.equal(value, b[part][key]) for key, value in a[part].items())
    a, b = (json.loads(Path(f"{name}/summary.json").read_text()) for name in (one, other))
    assert {**a, "seconds": 0} == {**b, "seconds": 0}
    assert read_jsonl(f"{one}/metrics.jsonl") == read_jsonl(f"{other}/metrics.jsonl") == a["curve"]
    for name in (one, other):
        assert not list(Path(name).glob("*.pt*"))[1:]  # the classifier alone is left


@pytest.mark.parametrize(
    ("steps", "extra"),
    [
        (1, []),
        (3, ["--features", "combined"]),
        (4, ["--optimizer", "lars"]),
        (6, []),  # all steps: the test alone is missing
        (5, ["--freeze"]),
    ],
)
def test_resume_gives_the_result_of_an_unbroken_run(monkeypatch, capsys, steps, extra):
    assert classify(*extra, "--run-dir", "whole") == 0
    with monkeypatch.context() as patch:
        stop_after(patch, steps)
        assert classify(*extra, "--run-dir", "part") == 143
    assert f"saved at step {steps} in part/last.pt" in capsys.readouterr().err
    assert not Path("part/summary.json").exists()
    assert classify(*extra, "--run-dir", "part", "--resume") == 0
    assert f"going on at step {steps}\n" in capsys.readouterr().out
    same_result("whole", "part")


def test_a_stopped_run_is_not_lost_unasked(world, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        assert classify("--run-dir", "run") == 143
    capsys.readouterr()
    fails(capsys, classify("--run-dir", "run"), "run holds a run", "--resume", "--overwrite")
    fails(capsys, classify("--run-dir", "run", "--resume", "--overwrite"), "exclude each other")
    fails(capsys, classify("--run-dir", "run", "--resume", "--lr", "0.1"), "lr was 0.001")
    shutil.copy(world / "1.pt", "byol.pt")  # trained anew under the same name
    fails(capsys, classify("--run-dir", "run", "--resume"), "weights was")
    assert Path("run/last.pt").is_file()
    assert classify("--run-dir", "run", "--overwrite") == 0
    assert classify("--run-dir", "new") == 0
    same_result("run", "new")


def test_resume_with_seeds_keeps_what_is_finished(monkeypatch, capsys):
    seeds = ["--seeds", "3", "--freeze"]
    assert classify(*seeds, "--runs", "whole") == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 8)  # amid the second
        assert classify(*seeds, "--runs", "part") == 143
    first = Path("part/classifier-byol-frozen/summary.json").stat().st_mtime_ns
    assert not Path("part/classifier-byol-frozen-seed2").exists()
    assert classify(*seeds, "--runs", "part", "--resume") == 0
    assert Path("part/classifier-byol-frozen/summary.json").stat().st_mtime_ns == first
    for name in ("", "-seed1", "-seed2"):
        same_result(*(f"{runs}/classifier-byol-frozen{name}" for runs in ("whole", "part")))


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


def writes(monkeypatch, before_write):
    """Call `before_write(path)` before each file of results takes its name."""
    replace = os.replace

    def watched(source, target, **_):
        before_write(Path(target))
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", watched)


def test_a_finished_run_of_other_settings_is_not_overwritten_unasked(capsys):
    assert classify("--freeze", "--epochs", "2") == 0
    assert classify("--freeze", "--epochs", "2") == 0  # the same run again: nothing can be lost
    before = Path("runs/classifier-byol-frozen/summary.json").read_bytes()
    capsys.readouterr()
    for extra in ([], ["--resume"]):
        code = classify("--freeze", "--epochs", "1", *extra)
        fails(capsys, code, "classifier-byol-frozen", "--overwrite")
    assert Path("runs/classifier-byol-frozen/summary.json").read_bytes() == before
    assert classify("--freeze", "--epochs", "1", "--overwrite") == 0
    assert Path("runs/classifier-byol-frozen/summary.json").read_bytes() != before


def test_killed_at_any_write_the_plots_show_the_old_run_or_the_new(monkeypatch, capsys):
    """Killed before each file takes its name, over an earlier result of other settings."""
    assert classify("--freeze", "--runs", "runs", "--epochs", "2") == 0
    assert plot_losses.main(["--out", "old"]) == 0
    shutil.copytree("runs", "earlier")
    new = ["--freeze", "--save-every", "0", "--epochs", "1", "--batch-size", "8"]
    assert classify(*new, "--runs", "fresh") == 0
    assert plot_losses.main(["--runs", "fresh", "--out", "new"]) == 0
    read = {"old": plot_losses.read_runs(Path("earlier"))[0][0]["rows"],
            "new": plot_losses.read_runs(Path("fresh"))[0][0]["rows"]}  # fmt: skip
    assert len(read["old"]) == 2
    assert len(read["new"]) == 1
    names, killed_at = [], 0
    while True:
        shutil.rmtree("runs")
        shutil.copytree("earlier", "runs")
        count = 0

        def kill(path, at=killed_at):
            nonlocal count
            count += 1
            if count > at:
                names.append(path.name)
                raise Killed

        with monkeypatch.context() as patch:
            writes(patch, kill)
            try:
                assert classify(*new, "--overwrite") == 0
                break
            except Killed:
                pass
        (run,) = plot_losses.read_runs(Path("runs"))[0]
        assert run["rows"] == read["old"]
        assert run["summary"]["epochs"] == 2
        saved = holds_a_run(Path("runs/classifier-byol-frozen"))
        assert classify(*new, "--resume" if saved else "--overwrite") == 0
        same_result("runs/classifier-byol-frozen", "fresh/classifier-byol-frozen")
        killed_at += 1
    assert {"last.pt", "classifier.pt", "config.json", "metrics.jsonl", "summary.json"} <= {*names}
    assert capsys.readouterr().err.count("damaged") == 0


def test_an_evaluation_goes_on_inside_its_runs(monkeypatch, capsys):
    assert judge("--out", "whole") == 0
    whole = json.loads(Path("whole/table.json").read_text())["cells"]
    for steps in (3, 16):  # in the first run, and in the supervised row
        with monkeypatch.context() as patch:
            stop_after(patch, steps)
            assert judge("--out", "part") == 143
        error = capsys.readouterr().err
        assert "part/unfinished.md; the same command goes on" in error
        assert not Path("part/table.md").exists()
        assert Path("part/unfinished.md").exists()
    states = [path.parent.name for path in Path("part/runs").glob("*/last.pt")]
    assert states == ["random-avgpool-8-3epochs-seed0"]
    assert judge("--out", "part") == 0
    assert json.loads(Path("part/table.json").read_text())["cells"] == whole
    assert not list(Path("part").glob("unfinished.*"))
    assert not list(Path("part/runs").glob("*/last.pt"))
    for folder in Path("whole/runs").iterdir():
        same_result(folder, Path("part/runs") / folder.name)


@pytest.mark.parametrize("change", ["weights", "lr", "damage"])
def test_nothing_stale_is_taken_for_this_run(world, monkeypatch, change):
    """A finished evaluation, then another checkpoint under the same name, or other settings."""
    extra = {
        "weights": [],
        "damage": [],
        "lr": ["--lr", "0.01"],
    }
    assert judge() == 0
    runs = set(Path("evaluation/runs").iterdir())
    if change == "weights":
        shutil.copy(world / "1.pt", "byol.pt")
    if change == "damage":
        for folder in runs:
            (folder / "summary.json").write_text('{"test_accuracy": 0.5, "seconds": 1}')
    trained = []
    train = train_classifier.train
    monkeypatch.setattr(
        train_classifier, "train", lambda *a: trained.append(a[0].init) or train(*a)
    )
    assert judge(*extra[change]) == 0
    byol, rand = trained.count("byol.pt"), trained.count("random")
    assert (byol, rand) == {"weights": (2, 0)}.get(change, (2, 3))


def test_a_state_of_other_weights_is_not_gone_on_with(world, monkeypatch):
    """Also where the folder has the right name."""
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        assert judge() == 143
    (state,) = Path("evaluation/runs").glob("*/last.pt")
    content = checkpoint.load(state, checkpoint.TRAINING)
    content["config"]["weights"] = "others"
    checkpoint.save_state(state.parent, content)
    assert judge() == 0
    assert judge("--out", "fresh") == 0
    same_result(state.parent, Path("fresh/runs") / state.parent.name)


def start(script, *argv):
    command = [sys.executable, str(ROOT / script), *argv]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_how_to_go_on(capsys, number, code):
    argv = ["--init", "byol.pt", *SETTINGS, "--epochs", "2000", "--run-dir", "run"]
    process = start("train_classifier.py", *argv)
    metrics = Path("run/metrics.partial.jsonl")
    wait_for(lambda: metrics.exists() and len(read_jsonl(metrics)) >= 2, process)
    fails(capsys, train_classifier.main(argv), f"in use by process {process.pid}")
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert "the same command with --resume goes on" in errors
    assert "Traceback" not in errors
    assert checkpoint.load_state(Path("run"))["step"] >= 4
    assert plot_losses.main(["--runs", "."]) == 2
    assert "left out, not finished: run" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("script", ["train_classifier.py", "evaluate.py", "plot_losses.py"])
def test_killed_at_random_moments_the_same_command_ends_in_the_same_result(world, script):
    """SIGKILL, SIGTERM and SIGINT in turn; after each the plots read a whole run, or none."""
    fine = ["--labels", "8", "--epochs", "60", "--batch-size", "4", "--amp", "off"]
    argv = {
        "train_classifier.py": ["--init", "byol.pt", *fine, "--save-every", "0.2", "--resume"],
        "evaluate.py": ["byol.pt", *fine, "--seeds", "1", "--supervised-epochs", "90"],
        "plot_losses.py": ["--runs", str(world / "runs")],
    }[script]
    if script == "plot_losses.py":
        assert classify("--seeds", "3", "--runs", str(world / "runs")) == 0
    where = {"train_classifier.py": "--run-dir", "evaluate.py": "--out", "plot_losses.py": "--out"}
    began = time.monotonic()
    whole = start(script, *argv, where[script], "whole")
    assert whole.wait(timeout=600) == 0, whole.communicate()
    took = time.monotonic() - began
    draw = random.Random(0)
    for number in [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGKILL] * 3:
        process = start(script, *argv, where[script], "part")
        time.sleep(draw.uniform(0.4 * took, took))
        process.send_signal(number)
        _, errors = process.communicate()
        assert process.returncode in (0, -number, 128 + number), errors
        for path in Path("part").rglob("*.json"):
            json.loads(path.read_text())
        for path in Path("part").rglob("*.png"):
            if path.name != "unfinished.png":
                other = Path("whole") / path.relative_to("part")
                assert path.read_bytes() == other.read_bytes()
    process = start(script, *argv, where[script], "part")
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    for path in Path("whole").rglob("summary.json"):
        same_result(path.parent, Path("part") / path.parent.relative_to("whole"))
    if script == "evaluate.py":
        whole, part = (json.loads(Path(f"{n}/table.json").read_text()) for n in ("whole", "part"))
        assert whole["cells"] == part["cells"]
