"""Scripts as several processes: the steps, the features, the files and the decisions of one."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from narrow_encoder import evaluate_fast, write_encoder
from several import exact, in_processes

import evaluate
import explore
import export
import plot_losses
import predict
from byol.evaluation.features import FeatureExtractor
from byol.hardware.distributed import Helpers
from byol.method import BYOL
from byol.run.checkpoint import TRAINING, load
from byol.run.metrics import read_jsonl

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the processes are forked")

COMMON = ["--labels", "0", "--log-every", "1", "--health-every", "0"]  # 32 photos to learn from
OF_16 = ["--batch-size", "16", "--epochs", "10"]
OF_32 = ["--batch-size", "32", "--epochs", "20"]
CLASSIC = ["--losses", "classic"]
MULTI = ["--losses", "multi", "--accumulate", "2"]
# in float32 the rate is low: see `exact` on higher ones
SLOWLY = ["--optimizer", "lars", "--lr", "0.005"]
MORE_SLOWLY = ["--optimizer", "lars", "--lr", "0.002"]


@pytest.fixture
def in_float64(monkeypatch):
    exact(monkeypatch)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def run(pretrain, narrow_encoder):
    """Do a run of this name in this process: its exit code."""
    return lambda name, *flags: pretrain(*COMMON, *flags, "--run-dir", name, "--out", f"{name}.pt")


def same_steps(
    one: str, other: str, steps: int = 20, within: float = 1e-4, rises: bool = False
) -> None:
    """Compare the losses of all steps, and the encoders. rises: whitened targets get harder."""
    ours, theirs = (read_jsonl(f"{name}/metrics.jsonl") for name in (one, other))
    assert len(ours) == len(theirs) == steps
    fall = ours[0]["loss"] - ours[-1]["loss"]
    assert (-fall if rises else fall) > 0.1  # it learns meanwhile
    for row, its in zip(ours, theirs, strict=True):
        assert row.keys() == its.keys()
        for name in row:
            if not name.startswith(("images", "spread")):  # the spread is a mean over the shares
                assert row[name] == pytest.approx(its[name], abs=within), (row["step"], name)
    ours, theirs = (torch.load(f"{name}.pt", weights_only=True) for name in (one, other))
    assert ours.keys() == theirs.keys()
    for name, value in ours["encoder"].items():
        torch.testing.assert_close(theirs["encoder"][name], value, atol=within, rtol=within)


def same_files(one: str, other: str) -> None:
    """Compare what is in the folders and in the states of training."""
    assert {p.name for p in Path(one).iterdir()} == {p.name for p in Path(other).iterdir()}
    ours, theirs = (load(Path(name, "last.pt"), TRAINING) for name in (one, other))
    assert ours.keys() == theirs.keys()
    assert ours["config"] == theirs["config"] | {"run_dir": one, "out": f"{one}.pt"}
    for part in ("model", "optimizer", "log"):
        assert ours[part].keys() == theirs[part].keys()


@pytest.mark.parametrize("whitening", [0, 0.01])
def test_steps_of_two_processes_are_those_of_one(run, in_float64, whitening):
    """With losses on inner blocks, and accumulated."""
    flags = [*OF_16, *MULTI, "--epochs", "3", "--whitening", f"{whitening}"]
    assert run("one", *flags) == 0
    assert in_processes(2, run, "two", *flags) == [0, 0]
    same_steps("one", "two", steps=6, rises=whitening > 0)
    same_files("one", "two")


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize(
    "flags",
    [[*OF_32, *CLASSIC, *SLOWLY], [*OF_32, *MULTI, *MORE_SLOWLY]],
    ids=["classic", "multi, accumulated"],
)
def test_twenty_steps_of_several_processes_are_those_of_one(run, flags, count):
    assert run("one", *flags) == 0
    assert in_processes(count, run, "several", *flags) == [0] * count
    same_steps("one", "several")


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize(
    "flags",
    [[*OF_16, *CLASSIC], [*OF_32, *MULTI, "--lr", "0.01"]],
    ids=["classic", "multi, accumulated"],
)
def test_twenty_large_steps_in_float64(run, in_float64, flags, count):
    test_twenty_steps_of_several_processes_are_those_of_one(run, flags, count)


def stop_after(steps: int, number: int = signal.SIGTERM) -> None:
    """Send this process a signal amid the last of so many steps."""
    update, left = BYOL.update_target, [steps]

    def counting(model, tau):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), number)
        update(model, tau)

    BYOL.update_target = counting  # of a forked process


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (2, 1),
        pytest.param(4, 2, marks=pytest.mark.slow),
        pytest.param(2, 4, marks=pytest.mark.slow),
    ],
)
def test_a_signal_to_one_process_stops_all_after_the_same_step_and_any_number_goes_on(
    run, in_float64, capfd, first, second
):
    """The result is that of one process."""
    flags = [*OF_16, *CLASSIC, "--epochs", "3", "--resume", "auto"]

    def stopping() -> int:
        if os.environ["RANK"] == "1":
            stop_after(2)
        return run("part", *flags)

    assert run("one", *flags) == 0
    with pytest.raises(AssertionError, match="ended"):
        in_processes(first, stopping)
    assert load(Path("part", "last.pt"), TRAINING)["step"] == 2
    (told,) = [line for line in capfd.readouterr().err.splitlines() if "interrupted" in line]
    assert "saved at step 2" in told
    if second == 1:
        assert run("part", *flags) == 0
    else:
        assert in_processes(second, run, "part", *flags) == [0] * second
    same_steps("one", "part", steps=6)


def test_if_one_process_dies_the_other_ends_within_seconds(run, capfd):
    def dying() -> int:
        if os.environ["RANK"] == "1":
            stop_after(2, signal.SIGKILL)
        code = run("part", *OF_16, *CLASSIC, "--epochs", "500")
        raise AssertionError(f"it ended with {code}")  # it never comes here

    with pytest.raises(AssertionError, match=r"ended with \[2, -9\]"):
        in_processes(2, dying)
    err = capfd.readouterr().err
    assert err.count("error: ") == 1
    assert "another process of this run has ended" in err


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--batch-size", "9"], "batch_size 9 cannot be shared out evenly among 2 processes"),
        (["--batch-size", "2"], "batch_size 2 cannot be shared out evenly among 2 processes"),
        (
            ["--batch-size", "12", "--accumulate", "4"],
            "batch_size 12 / accumulate 4 = 3 cannot be shared out evenly among 2 processes",
        ),
        (["--device", "mps"], "--device mps"),
        (["--resume", "often"], "--resume stands alone or with auto, not with often"),
        (["--data", "nowhere"], "nowhere"),
    ],
)
def test_what_is_wrong_is_told_once(run, capfd, flags, told):
    with pytest.raises(AssertionError, match=r"ended.*\[2, 2\]"):
        in_processes(2, run, "wrong", *flags)
    out, err = capfd.readouterr()
    (line,) = [line for line in err.splitlines() if "error: " in line]
    assert told in line
    assert out == ""
    assert not Path("wrong.pt").exists()


# ---- features in shares ----

FROZEN = ["--init", "random", "--freeze", "--folds", "2"]


@pytest.fixture
def small_batches(monkeypatch):
    """Features of 5 photos at a time, so that there are shares."""
    monkeypatch.setattr("byol.evaluation.features.BATCH", 5)


@pytest.fixture
def judge(photos, narrow_encoder, small_batches, monkeypatch):
    """Judge two encoders, frozen: the exit code of evaluate.py."""
    evaluate_fast(monkeypatch)
    for name, seed in (("a.pt", 1), ("b.pt", 2)):
        write_encoder(name, photos, seed=seed)
    flags = ["--labels", "8", "all", "--seeds", "2", "--device", "cpu", "--amp", "off"]
    return lambda *more: evaluate.main(["a.pt", "b.pt", *flags, *more])


def without_times(path: str | Path) -> dict:
    """Read JSON without what differs from run to run."""
    content = json.loads(Path(path).read_text())
    for name in ("seconds", "seconds_frozen", "command", "about", "images_per_second", "config"):
        content.pop(name, None)
    return content


def test_a_frozen_classifier_of_several_processes_is_that_of_one(
    classify, photos, narrow_encoder, small_batches, capfd
):
    """To the bit, with cross-validation; and a finished run is kept."""
    flags = ["--data", str(photos), "--labels", "20", *FROZEN]
    assert classify(*flags, "--run-dir", "one") == 0
    out, _ = capfd.readouterr()
    assert in_processes(3, classify, *flags, "--run-dir", "several") == [0, 0, 0]
    several, told = capfd.readouterr()
    assert several.replace("several", "one") == out
    assert told.count("features    computed in shares by 3 processes") == 1
    assert told.count("data   ") == 1
    assert {p.name for p in Path("one").iterdir()} == {p.name for p in Path("several").iterdir()}
    ours, theirs = (
        torch.load(Path(name, "classifier.pt"), weights_only=True) for name in ("one", "several")
    )
    for part in ("encoder", "head", "looks"):
        assert ours[part].keys() == theirs[part].keys()
        assert all(torch.equal(value, theirs[part][name]) for name, value in ours[part].items())
    assert without_times("one/summary.json") == without_times("several/summary.json")
    before = Path("several/classifier.pt").stat().st_mtime_ns
    again = [*flags, "--run-dir", "several", "--resume", "auto"]
    assert in_processes(2, classify, *again) == [0, 0]
    assert Path("several/classifier.pt").stat().st_mtime_ns == before


def test_several_processes_judge_as_one(judge, capfd):
    assert judge("--frozen-only", "--out", "one") == 0
    out, _ = capfd.readouterr()
    assert in_processes(2, judge, "--frozen-only", "--out", "several") == [0, 0]
    several, told = capfd.readouterr()
    assert several.replace("several", "one") == out
    assert told.count("features    computed in shares by 2 processes") == 1
    assert without_times("one/table.json") == without_times("several/table.json")
    assert len(list(Path("several").iterdir())) == len(list(Path("one").iterdir()))


def test_several_processes_draw_the_label_curve_of_frozen_features(photos, judge, capfd):
    flags = ["a.pt", "--curve", "4", "8", "--frozen-only", "--seeds", "2", "--device", "cpu"]
    assert evaluate.main([*flags, "--out", "one"]) == 0
    out, _ = capfd.readouterr()
    assert in_processes(2, evaluate.main, [*flags, "--out", "several"]) == [0, 0]
    assert capfd.readouterr().out.replace("several", "one") == out


def told_once(capfd, function, *arguments) -> str:
    """Run what ends with a sentence in two processes: the sentence."""
    with pytest.raises(AssertionError, match=r"ended.*\[2, 2\]"):
        in_processes(2, function, *arguments)
    out, err = capfd.readouterr()
    (line,) = err.splitlines()
    assert out == ""
    return line


def test_what_takes_one_process_says_so_before_it_begins(classify, judge, photos, capfd):
    data = ["--data", str(photos), "--labels", "8"]
    by_python = "takes one process: start it by python, not by torchrun"
    line = told_once(capfd, classify, *data, "--run-dir", "new")
    assert line == f"error: train_classifier.py without --freeze {by_python}"
    line = told_once(capfd, judge, "--out", "new")
    assert line == f"error: evaluate.py without --frozen-only {by_python}"
    line = told_once(capfd, judge, "--curve", "4", "--out", "new")
    assert line == f"error: evaluate.py without --frozen-only {by_python}"
    for script in (predict, plot_losses, explore, export):
        line = told_once(capfd, script.main, [])
        assert line == f"error: {Path(script.__file__).name} {by_python}"
    assert not Path("new").exists()


def test_what_is_wrong_with_photos_or_weights_is_told_once(classify, judge, photos, capfd):
    for flags in (["--data", "nowhere"], ["--data", str(photos), "--init", "none.pt"]):
        line = told_once(capfd, classify, *FROZEN, *flags, "--run-dir", "new")
        assert flags[-1] in line
    assert "nowhere" in told_once(capfd, judge, "--frozen-only", "--data", "nowhere")
    assert not Path("new").exists()


@pytest.mark.parametrize("dies", [0, 1])
def test_if_a_process_dies_over_features_the_other_ends_within_seconds(judge, capfd, dies):
    def dying() -> None:
        of_batch, calls = FeatureExtractor.of_batch, []

        def deadly(*arguments):
            calls.append(1)
            if len(calls) == 3 and os.environ["RANK"] == str(dies):
                os.kill(os.getpid(), signal.SIGKILL)
            return of_batch(*arguments)

        FeatureExtractor.of_batch = deadly  # of a forked process
        code = judge("--frozen-only", "--out", "new")
        raise AssertionError(f"it ended with {code}")  # it never comes here

    began = time.monotonic()
    with pytest.raises(AssertionError, match=r"ended with \[(2, -9|-9, 2)\]"):
        in_processes(2, dying)
    assert time.monotonic() - began < 30
    err = capfd.readouterr().err
    assert err.count("error: ") == 1
    assert "another process of this run has ended" in err
    assert not Path("new", "table.json").exists()


def test_if_a_helper_dies_while_the_first_process_works_alone_that_ends(judge, capfd, monkeypatch):
    monkeypatch.setattr("byol.hardware.distributed.GRACE", 0.2)

    def dying() -> None:
        def endless(*_):
            time.sleep(100)

        monkeypatch.setattr(evaluate, "judge_frozen", endless)
        jobs = Helpers.jobs

        def one_job(self):
            for number, job in enumerate(jobs(self)):
                yield job
                if number == 0:
                    time.sleep(0.5)
                    os.kill(os.getpid(), signal.SIGKILL)

        Helpers.jobs = one_job
        judge("--frozen-only", "--out", "new")

    with pytest.raises(AssertionError, match=r"ended with \[2, -9\]"):
        in_processes(2, dying)
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "error: " in line]
    assert "another process of this run has ended" in line
