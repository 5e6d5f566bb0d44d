"""Classifier runs and evaluations that are stopped, killed or start again.

The encoders are narrow and untrained, but for that of a process.
"""

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from narrow_encoder import evaluate_fast, narrow, write_encoder
from processes import wait_for
from refusals import fails
from same_runs import same_result

import evaluate
import plot_losses
import train_classifier
from byol import files
from byol.report.runs import read_runs
from byol.run import checkpoint
from byol.run.folder import holds_a_run
from byol.run.metrics import read_jsonl
from byol.run.run import Run

SETTINGS = ["--labels", "8", "--epochs", "3", "--batch-size", "4", "--amp", "off",
            "--device", "cpu", "--folds", "0"]  # fmt: skip


@pytest.fixture(scope="module")
def encoders(photos, cache, tmp_path_factory):
    """A folder with 0.pt and 1.pt, two encoders of `photos`."""
    folder = tmp_path_factory.mktemp("encoders")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BYOL_CACHE", str(cache))
        narrow(patch)
        for seed in (0, 1):
            write_encoder(folder / f"{seed}.pt", photos, seed=seed)
    return folder


@pytest.fixture(autouse=True)
def _place(in_tmp, encoders, monkeypatch):
    """An empty folder with byol.pt, and narrow encoders."""
    narrow(monkeypatch)
    evaluate_fast(monkeypatch)
    shutil.copy(encoders / "0.pt", "byol.pt")


def classify(*extra):
    return train_classifier.main(["--init", "byol.pt", *SETTINGS, *extra])


def judge(*extra):
    return evaluate.main(["byol.pt", "--labels", "8", "--seeds", "1", "--epochs", "2",
                          "--batch-size", "4", "--supervised-epochs", "3", "--amp", "off",
                          "--device", "cpu", *extra])  # fmt: skip


@contextlib.contextmanager
def stopped_after(steps: int):
    """SIGTERM comes in the step of that number, counted over all runs."""
    after_step, count = Run.after_step, itertools.count(1)

    def signalled(self, done: int) -> None:
        if next(count) == steps:
            os.kill(os.getpid(), signal.SIGTERM)
        after_step(self, done)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "after_step", signalled)
        yield


@pytest.mark.parametrize(
    ("steps", "extra"),
    [
        (1, []),
        (3, ["--representation", "combined"]),
        (4, ["--optimizer", "lars"]),
        (6, []),  # all steps: the test alone is missing
        (5, ["--freeze", "--folds", "3"]),
        (2, ["--self-train", "3", "--representation", "combined"]),
        (4, ["--folds", "2"]),  # amid the last training
    ],
)
def test_resume_gives_the_result_of_an_unbroken_run(capsys, steps, extra):
    assert classify(*extra, "--run-dir", "whole") == 0
    with stopped_after(steps):
        assert classify(*extra, "--run-dir", "part") == 143
    assert f"saved at step {steps} in part/last.pt" in capsys.readouterr().err
    assert not Path("part/summary.json").exists()
    assert classify(*extra, "--run-dir", "part", "--resume") == 0
    assert f"going on at step {steps}\n" in capsys.readouterr().err
    same_result("whole", "part")


def test_a_stopped_run_is_not_lost_unasked(encoders, capsys):
    with stopped_after(3):
        assert classify("--run-dir", "run") == 143
    capsys.readouterr()
    fails(capsys, classify("--run-dir", "run"), "run holds a run", "--resume", "--overwrite")
    fails(capsys, classify("--run-dir", "run", "--resume", "--overwrite"), "exclude each other")
    fails(capsys, classify("--run-dir", "run", "--resume", "--lr", "0.1"), "lr was 0.001")
    shutil.copy(encoders / "1.pt", "byol.pt")  # trained anew under the same name
    fails(capsys, classify("--run-dir", "run", "--resume"), "other settings (other weights)")
    assert Path("run/last.pt").is_file()
    assert classify("--run-dir", "run", "--overwrite") == 0
    assert classify("--run-dir", "new") == 0
    same_result("run", "new")


def test_resume_with_seeds_keeps_what_is_finished():
    seeds = ["--seeds", "3", "--freeze"]
    assert classify(*seeds, "--runs", "whole") == 0
    with stopped_after(8):  # amid the second
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
    shutil.copytree("runs", "earlier")
    new = ["--freeze", "--save-every", "0", "--epochs", "1", "--batch-size", "8", "--folds", "2"]
    assert classify(*new, "--runs", "fresh") == 0
    read = {"old": read_runs(Path("earlier"))[0][0]["rows"],
            "new": read_runs(Path("fresh"))[0][0]["rows"]}  # fmt: skip
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
        (run,) = read_runs(Path("runs"))[0]
        assert run["rows"] == read["old"]
        assert run["summary"]["epochs"] == 2
        saved = holds_a_run(Path("runs/classifier-byol-frozen"))
        assert saved == ("last.pt" in names[:-1])  # once it is written, until all is done
        assert classify(*new, "--resume" if saved else "--overwrite") == 0
        same_result("runs/classifier-byol-frozen", "fresh/classifier-byol-frozen")
        killed_at += 1
    assert {"last.pt", "classifier.pt", "config.json", "metrics.jsonl", "summary.json"} <= {*names}
    assert capsys.readouterr().err.count("damaged") == 0


def test_an_evaluation_goes_on_inside_its_runs(capsys):
    assert judge("--out", "whole") == 0
    whole = json.loads(Path("whole/table.json").read_text())["cells"]
    for steps in (3, 16):  # in the first run, and in the supervised row
        with stopped_after(steps):
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


def test_a_state_of_other_weights_is_not_gone_on_with():
    """Also where the folder has the right name."""
    with stopped_after(3):
        assert judge() == 143
    (state,) = Path("evaluation/runs").glob("*/last.pt")
    content = checkpoint.load(state, checkpoint.TRAINING)
    content["config"]["weights"] = "others"
    checkpoint.save_state(state.parent, content)
    assert judge() == 0
    assert judge("--out", "fresh") == 0
    same_result(state.parent, Path("fresh/runs") / state.parent.name)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.hazard)],
)
def test_a_signal_saves_and_says_how_to_go_on(root, photos, capsys, number, code):
    argv = ["--data", str(photos), "--image-size", "32", "--store-size", "32", *SETTINGS]
    argv += ["--freeze", "--epochs", "20000", "--run-dir", "run"]
    command = [sys.executable, str(root / "train_classifier.py"), *argv]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
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
