"""`train_byol.py` through its `main(argv)`: settings, stops and going on, what bad input gets.

The encoders are narrow: what they learn is not the point.
"""

import contextlib
import dataclasses
import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from processes import wait_for
from refusals import fails

import train_byol
from byol import files
from byol.encoder import Encoder
from byol.hardware import device
from byol.method import BYOL
from byol.run import checkpoint
from byol.run.metrics import read_jsonl
from byol.run.run import Run
from byol.schedules import Schedule, lr_at, tau_at
from byol.views.recipes import RECIPES, View

RUN = Path("runs/byol")
ONE_STEP = ["--labels", "24", "--epochs", "1"]  # with 8 photos


@pytest.fixture(scope="module")
def one_step(pretrain_apart):
    """The run that others of one step are compared with."""
    return pretrain_apart(*ONE_STEP, narrowly=True)


@pytest.fixture(autouse=True)
def _narrow(narrow_encoder):
    pass


def column(key: str, run=RUN) -> list:
    return [row[key] for row in read_jsonl(run / "metrics.jsonl")]


def weights(path) -> dict[str, torch.Tensor]:
    return checkpoint.load(path, checkpoint.ENCODER)["encoder"]


def assert_same(first: dict, second: dict) -> None:
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


@contextlib.contextmanager
def signal_after(step: int, number: int):
    """Send a signal to this process when `step` steps of a run are done."""

    class Signalled(Run):
        def after_step(self, done: int) -> None:
            if done == step:
                os.kill(os.getpid(), number)
            super().after_step(done)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_byol, "Run", Signalled)
        yield


# ---- what settings do


def test_the_same_seed_gives_the_same_weights_and_another_does_not(
    pretrain, classify, one_step, monkeypatch
):
    """--deterministic, which is for CUDA, changes nothing; torch is asked for it by each run."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    first = weights(one_step.folder / "byol.pt")
    assert pretrain(*ONE_STEP, "--deterministic") == 0
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert torch.are_deterministic_algorithms_enabled()
    assert_same(first, weights("byol.pt"))
    assert pretrain(*ONE_STEP, "--seed", "1", "--out", "other.pt", "--overwrite") == 0
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.equal(first["conv1.weight"], weights("other.pt")["conv1.weight"])
    try:
        assert classify("--init", "byol.pt", "--freeze", "--deterministic") == 0
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_accumulation_makes_one_update_per_batch(pretrain):
    """Two micro-batches of 12: the rate is that of 24, and the target moves once, by 1 - tau."""
    batch = ["--batch-size", "24", "--accumulate", "2", "--warmup-epochs", "0", "--log-every", "1"]
    flags = [*batch, "--tau0", "0.75", "--optimizer", "lars"]  # a step in each of two epochs
    with signal_after(1, signal.SIGINT):
        assert pretrain(*flags) == 130
    first = checkpoint.load_state(RUN)["model"]
    assert pretrain(*flags, "--resume") == 0
    second = checkpoint.load_state(RUN)["model"]
    assert column("step") == [1, 2]
    assert column("lr") == [2.0 * 24 / 256, pytest.approx(1.0 * 24 / 256)]
    assert column("tau") == [0.75, pytest.approx(0.875)]
    torch.manual_seed(0)
    initial = BYOL(Encoder(), 32, 16).state_dict()
    for before, after, tau in ((initial, first, 0.75), (first, second, 0.875)):
        assert not torch.equal(after["encoder.conv1.weight"], before["encoder.conv1.weight"])
        for name, _ in Encoder().named_parameters():  # BatchNorm's statistics are the target's own
            expected = tau * before[f"target_encoder.{name}"] + (1 - tau) * after[f"encoder.{name}"]
            torch.testing.assert_close(after[f"target_encoder.{name}"], expected)


def test_every_step_sees_other_views(pretrain):
    """All photos at each of four steps, and nothing is learned: the views alone differ."""
    still = ["--lr", "0", "--weight-decay", "0", "--batch-size", "24", "--log-every", "1"]
    assert pretrain(*still, "--epochs", "4") == 0
    losses = column("loss")
    assert min(abs(a - b) for a, b in itertools.combinations(losses, 2)) > 1e-4 * losses[0]


def test_views_of_their_own_size_train_what_classifies_images_of_another(pretrain, capsys):
    """The losses are those of images of the views' size, the encoder is for the image size."""
    assert pretrain(*ONE_STEP, "--view-size", "16") == 0
    assert "views       16 px, from 32 px" in capsys.readouterr().err
    assert checkpoint.load("byol.pt", checkpoint.ENCODER)["image_size"] == 32
    losses = column("loss")
    assert pretrain(*ONE_STEP, "--image-size", "16", "--overwrite") == 0
    assert column("loss") == losses
    code = pretrain("--overwrite", "--view-size", "40")
    fails(capsys, code, "view_size 40 is above the stored photos' 32", "lower it")


def test_a_recipe_is_changed_by_flags(pretrain, one_step, capsys, monkeypatch):
    def losses(*flags):
        assert pretrain(*ONE_STEP, "--overwrite", *flags) == 0
        return column("loss")

    plain = column("loss", one_step.folder / RUN)
    assert "recipe cartoons\n" in one_step.printed
    flags = ("--crop-min", "0.5", "--jitter-strength", "0.5", "--grayscale", "0.3")
    changed = losses(*flags, "--solarize", "1")
    told = "recipe cartoons, crop min 0.5, jitter strength 0.5, grayscale 0.3, solarize 1\n"
    assert told in capsys.readouterr().err
    view = View((0.5, 1), (3 / 4, 4 / 3), 0.5, 0.8, 0.2, 0.2, 0.1, 0.25, 0.3)
    pair = (view, dataclasses.replace(view, solarize=1.0))
    monkeypatch.setitem(RECIPES, "cartoons", pair)
    assert changed == losses() != plain
    fails(capsys, pretrain("--overwrite", "--crop-min", "2"), "crop_min", "1")


def test_bf16_trains_with_adamw_at_its_own_default_rate(pretrain):
    assert pretrain(*ONE_STEP, "--amp", "bf16", "--optimizer", "adamw") == 0
    assert np.isfinite(column("loss")).all()
    assert column("lr") == [pytest.approx(1e-3 * 8 / 256)]
    assert all(v.isfinite().all() for v in weights("byol.pt").values())
    states = checkpoint.load_state(RUN)["optimizer"]["state"].values()
    assert {float(state["step"]) for state in states} == {1.0}


def test_a_flat_folder_is_all_unlabelled(tiny, classify, tmp_path, capsys):
    folder = tmp_path / "flat"
    folder.mkdir()
    for index in range(8):
        noise = np.random.default_rng(index).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{index}.jpg")
    flat = [*tiny[4:], "--data", str(folder), "--epochs", "1"]  # 250 labels, the default
    assert train_byol.main(flat) == 0
    assert "8 unlabelled images" in capsys.readouterr().err
    fails(capsys, classify("--init", "byol.pt", "--freeze"), "class folders")
    shutil.copy(folder / "1.jpg", folder / "new.jpg")
    fails(capsys, train_byol.main([*flat, "--resume"]), "--resume", "other images")


def test_a_holdout_is_seen_by_neither_stage(pretrain, classify, narrow_run, capsys):
    assert pretrain("--holdout", "16", "--out", "h.pt", "--epochs", "1") == 0
    split = json.loads((RUN / "split.json").read_text())
    assert len(split["holdout"]) == 16
    assert not set(split["holdout"]) & (set(split["unlabelled"]) | set(split["labelled"]))
    assert classify("--init", "h.pt", "--freeze") == 0
    again = json.loads(Path("runs/classifier-byol-frozen/split.json").read_text())
    assert again["holdout"] == split["holdout"]
    assert again["labelled"] == split["labelled"]
    capsys.readouterr()
    code = classify("--init", str(narrow_run.folder / "byol.pt"), "--freeze", "--holdout", "6")
    fails(capsys, code, "--holdout", "has seen")


# ---- stopping and going on


def test_resume_gives_the_result_of_an_unbroken_run(pretrain, narrow_run, capsys):
    """Stopped three times: before the first line of metrics, amid an epoch, between two lines.

    The last time last.pt is damaged, as a loss of power may leave it beside previous.pt.
    """
    going_on = []
    for step, number, code in (
        (1, signal.SIGINT, 130),
        (4, signal.SIGTERM, 143),
        (5, signal.SIGINT, 130),
    ):
        with signal_after(step, number):
            assert pretrain("--save-every", "60", *going_on) == code
        assert f"saved at step {step} in runs/byol/last.pt" in capsys.readouterr().err
        assert checkpoint.load(RUN / "last.pt", checkpoint.TRAINING)["step"] == step
        assert not Path("byol.pt").exists()
        going_on = ["--resume"]
    (RUN / "last.pt").rename(RUN / "previous.pt")
    (RUN / "last.pt").write_bytes((RUN / "previous.pt").read_bytes()[:-1])
    assert pretrain("--save-every", "60", "--resume") == 0
    captured = capsys.readouterr()
    assert len([line for line in captured.err.splitlines() if "previous.pt" in line]) == 1
    assert "note  " not in captured.err  # as it has no more epochs
    assert not (RUN / "previous.pt").exists()

    assert_same(weights(narrow_run.folder / "byol.pt"), weights("byol.pt"))
    whole, stopped = (read_jsonl(run / "metrics.jsonl") for run in (narrow_run.folder / RUN, RUN))
    assert [row["step"] for row in whole] == [2, 3, 4, 6]
    for row in whole + stopped:
        assert row.pop("images_per_second") > 0
    assert stopped == whole


def test_resume_with_whitened_targets_goes_on_with_their_statistics(pretrain):
    flags = "--whitening", "0.01"
    whole, stopped = (["--run-dir", name, "--out", f"{name}.pt"] for name in ("whole", "stopped"))
    assert pretrain(*flags, *whole) == 0
    with signal_after(3, signal.SIGINT):
        assert pretrain(*flags, *stopped) == 130
    assert pretrain(*flags, *stopped, "--resume") == 0
    ours, theirs = (checkpoint.load(Path(name, "last.pt"), checkpoint.TRAINING)["model"]
                    for name in ("whole", "stopped"))  # fmt: skip
    assert ours["whitening.batches"] == 6
    assert_same(ours, theirs)


def test_a_run_is_lengthened_by_epochs_on_resume(pretrain, tiny, capsys):
    """Stopped at step 4 of 6 it goes on to 9, and finished there to 12, by their schedules."""
    small = ["--labels", "20", "--batch-size", "4", "--save-every", "60"]  # three steps an epoch
    with signal_after(4, signal.SIGTERM):
        assert pretrain(*small) == 143
    kept = read_jsonl(RUN / "metrics.jsonl")
    assert [row["step"] for row in kept] == [2, 3, 4]
    capsys.readouterr()
    for epochs, total, warmup in ((3, 9, 4), (4, 12, 6)):
        assert pretrain(*small, "--epochs", f"{epochs}", "--resume") == 0
        notes = [line for line in capsys.readouterr().err.splitlines() if line[:4] == "note"]
        assert len(notes) == 1
        assert f"--epochs was {epochs - 1} and is now {epochs}" in notes[0]
        rows = read_jsonl(RUN / "metrics.jsonl")
        assert rows[: len(kept)] == kept
        for row in rows[len(kept) :]:
            step = row["step"] - 1
            assert row["lr"] == lr_at(step, total, warmup, 0.06 * 4 / 256)
            assert row["tau"] == tau_at(step, total, 0.99)
        kept = rows
        assert json.loads((RUN / "config.json").read_text())["epochs"] == epochs
        assert checkpoint.load_state(RUN)["step"] == total
        assert checkpoint.load("byol.pt", checkpoint.ENCODER)["step"] == total
    assert [row["step"] for row in kept] == [2, 3, 4, 6, 8, 9, 10, 12]

    code = pretrain(*small, "--epochs", "3", "--resume")
    fails(capsys, code, "has done 12 steps", "--epochs 4 or more")
    at = tiny.index("--epochs")
    code = train_byol.main(
        [*tiny[:at], *tiny[at + 2 :], *small, "--resume"]
    )  # no flag, but a default
    fails(capsys, code, "(epochs was 4 and is now 240)")
    assert checkpoint.load_state(RUN)["config"]["epochs"] == 4


def test_nothing_is_replaced_unasked(pretrain, capsys):
    """Neither a run in the folder, nor the encoder of another run."""
    Path("byol.pt").write_bytes(b"another run's")
    fails(capsys, pretrain(), "byol.pt", "--overwrite", "another --out")
    assert not (RUN / "last.pt").exists()
    mine = ["--out", "mine.pt", "--epochs", "1"]
    assert pretrain(*mine) == 0
    before = (RUN / "metrics.jsonl").read_bytes()
    fails(capsys, pretrain(*mine), "--resume", "--overwrite", "runs/byol")
    other = [*mine, "--resume", "--batch-size", "4", "--tau0", "0.9"]
    words = "tau0 was 0.99 and is now 0.9; batch_size was 8 and is now 4", "--device,", "may differ"
    fails(capsys, pretrain(*other), *words)
    fails(capsys, pretrain("--overwrite", "--batch-size", "100"), "--batch-size 100")
    assert (RUN / "last.pt").is_file()  # a refused command costs nothing
    assert (RUN / "metrics.jsonl").read_bytes() == before
    assert pretrain(*mine, "--resume") == 0  # its own encoder
    assert Path("byol.pt").read_bytes() == b"another run's"
    assert pretrain("--epochs", "1", "--overwrite") == 0
    checkpoint.load("byol.pt", checkpoint.ENCODER)


def test_a_running_run_is_left_alone_and_two_ctrl_c_do_no_harm(root, pretrain, tiny, capsys):
    command = [sys.executable, str(root / "train_byol.py"), *tiny, "--epochs", "400"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    wait_for((RUN / "last.pt").exists, process)
    for flag in ("--resume", "--overwrite"):
        fails(capsys, pretrain(flag), f"in use by process {process.pid}")
    saved = checkpoint.load_state(RUN)["step"]
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in errors
    assert "Traceback" not in errors
    assert saved <= checkpoint.load_state(RUN)["step"] < 1200
    assert pretrain("--overwrite", "--epochs", "1") == 0


def test_ctrl_c_while_the_encoder_is_written(pretrain, capsys, monkeypatch):
    """A second one stops at once, and --resume finishes; a single one lets it finish."""
    save = checkpoint.save

    def interrupted(times: int):
        def then_save(*args):
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)
            save(*args)

        monkeypatch.setattr(checkpoint, "save", then_save)

    interrupted(2)
    assert pretrain("--epochs", "1") == 130
    assert "--resume takes the last checkpoint" in capsys.readouterr().err
    assert not Path("byol.pt").exists()
    interrupted(1)
    assert pretrain("--epochs", "1", "--resume") == 0
    assert "--resume takes the last checkpoint" not in capsys.readouterr().err
    checkpoint.load("byol.pt", checkpoint.ENCODER)


def test_ctrl_c_outside_the_loop_is_one_sentence(pretrain, capsys, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(train_byol, "open_photos", stop)
    assert pretrain() == 130
    assert "nothing was saved; run the command again" in capsys.readouterr().err


def test_a_run_of_an_earlier_version_is_not_resumed(pretrain, narrow_run, capsys):
    content = checkpoint.load_state(narrow_run.folder / RUN)
    del content["config"]["inner_blocks"]
    RUN.mkdir(parents=True)
    checkpoint.save_state(RUN, content)
    fails(capsys, pretrain("--resume"), "earlier version", "inner_blocks", "--run-dir")


# ---- faults


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--batch-size", "100"], ["--batch-size 100", "24"]),
        (["--batch-size", "1"], ["batch_size", "at least 2"]),
        (["--accumulate", "3"], ["--accumulate 3", "--batch-size 8"]),
        (["--accumulate", "8"], ["BatchNorm"]),
        (["--labels", "50"], ["50", "--labels"]),
        (["--image-size", "4"], ["image_size"]),
        (["--device", "tpu"], ["--device"]),
        (["--resume", "--overwrite"], ["--overwrite"]),
        (["--out", "."], ["folder"]),
        (["--amp", "fp16", "--device", "cpu"], ["fp16", "CUDA"]),
        (["--data", "nowhere"], ["nowhere"]),
    ],
)
def test_bad_input_is_one_sentence(pretrain, capsys, extra, words):
    fails(capsys, pretrain(*extra), *words)
    assert not Path("byol.pt").exists()


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_state(pretrain, capsys, monkeypatch):
    """The fourth step has an infinite rate: the weights are lost, and then the loss."""
    lr = Schedule.lr
    monkeypatch.setattr(
        Schedule, "lr", lambda self, step: math.inf if step == 3 else lr(self, step)
    )
    code = pretrain("--warmup-epochs", "0", "--log-every", "1")
    rate = "learning rate 0.00047 (--lr 0.06)"  # a quarter of the peak, after four of six steps
    kept = "the last good state is runs/byol/last.pt"
    fails(capsys, code, f"the loss is not finite at step 5, {rate}; {kept};", "with a lower --lr")
    state = checkpoint.load_state(RUN)
    assert state["step"] == 3
    assert all(torch.isfinite(v).all() for v in state["model"].values())
    assert not Path("byol.pt").exists()


def test_steps_that_float16_skips_are_counted_and_told(pretrain, capsys, monkeypatch):
    """At the usual scale the first step overflows by itself."""
    monkeypatch.setattr(device, "pick_amp", lambda *_: torch.float16)
    small = ["--view-size", "8", "--log-every", "1"]  # a CPU is slow in float16
    assert pretrain(*ONE_STEP, *small) == 0
    assert column("skipped_steps") == [1]
    assert ", 1 steps skipped as float16 overflowed" in capsys.readouterr().out
    assert pretrain(*ONE_STEP, *small, "--epochs", "3", "--resume") == 0
    skipped = column("skipped_steps")
    assert skipped == sorted(skipped)
    assert skipped[0] == 1
    assert all(type(count) is int for count in skipped)


def test_too_little_memory_is_one_sentence(pretrain, capsys, monkeypatch):
    def full(self, tau):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(BYOL, "update_target", full)
    fails(capsys, pretrain(), "the GPU has too little memory", "--image-size", "--no-cuda-graph")


def test_a_full_disk_is_one_sentence(pretrain, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "last.pt")

    monkeypatch.setattr(files.os, "fsync", full)
    fails(capsys, pretrain(), "no room to write ")
