"""The world around a script goes away or is odd: terminals, encodings, fonts, cores."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from refusals import fails

import plot_losses
from byol import files
from byol.command_line import Output, command
from byol.run.interrupt import Interrupt

TINY = ["--labels", "8", "--image-size", "32", "--store-size", "32", "--hidden-dim", "16",
        "--projection-dim", "8", "--losses", "classic", "--batch-size", "8", "--epochs", "1",
        "--recipe", "cartoons", "--amp", "off", "--device", "cpu",
        "--health-every", "0"]  # fmt: skip


class Gone(io.StringIO):
    """A stream whose reader has died."""

    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")

    flush = write


def test_output_that_nobody_reads_any_more_is_dropped():
    output = Output(Gone())
    assert output.write("loss 3.1") == 8
    output.flush()


def test_a_script_without_any_output_runs(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert command(lambda argv: print("hello"))([]) == 0


@pytest.mark.hazard
def test_a_run_goes_on_when_the_reader_of_its_output_dies(in_tmp, photos, root):
    """As with `train_byol.py 2>&1 | head -1`: the bar's next write finds no reader."""
    command = [sys.executable, str(root / "train_byol.py"), "--data", str(photos), *TINY]
    reading, writing = os.pipe()
    process = subprocess.Popen(command, stdout=writing, stderr=writing)
    os.close(writing)
    os.read(reading, 1)
    os.close(reading)
    assert process.wait(timeout=120) == 0
    assert Path("byol.pt").is_file()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("lines", [1, 100_000])  # written at the end, or on the way
def test_results_that_find_no_room_are_an_error_at_the_end(monkeypatch, capsys, lines):
    done = []

    def main(_argv):
        for number in range(lines):
            print("a line of a table", number)
        done.append(True)

    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        code = command(main)([])
    fails(capsys, code, "no room to write the output")
    assert done


def test_a_closed_terminal_saves_as_sigterm_does():
    with Interrupt() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert (stop.asked, stop.code) == (True, 129)


def test_a_run_under_nohup_is_not_stopped_by_a_closed_terminal():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupt() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.asked
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_terminal_without_the_letters_gets_escapes():
    raw = io.BytesIO()
    output = Output(io.TextIOWrapper(raw, encoding="ascii"))
    output.write("96.8 ± 0.3, photos\udcff")
    output.flush()
    assert raw.getvalue() == rb"96.8 \xb1 0.3, photos\udcff"


@pytest.mark.hazard
def test_the_backend_of_a_notebook_does_not_matter(root):
    backend = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    done = subprocess.run(
        [sys.executable, "-c", "import evaluate, plot_losses, explore"], cwd=root,
        capture_output=True, text=True, env={**os.environ, **backend},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def finished_run(data: str) -> dict:
    """The summary of a classifier run on the folder `data`."""
    return {
        **{"init": "byol", "init_file": "byol.pt", "freeze": True, "representation": "avgpool"},
        **{"seed": 0, "classes": ["a", "b"], "data": data, "image_size": 32, "labels": 8},
        **{"tested_on": "holdout", "test_images": 9, "epochs": 1, "test_accuracy": 0.5},
        **{"train_loss": 0.7, "curve": [{"epoch": 1, "loss": 0.7, "accuracy": 0.5}]},
    }


@pytest.mark.parametrize("data", ["照片", "photos\udcff", "$x_{", "new\nline"])
def test_any_name_of_a_folder_can_be_drawn(in_tmp, capfd, recwarn, data):
    run = Path("runs/classifier-byol-frozen")
    run.mkdir(parents=True)
    (run / "summary.json").write_text(json.dumps(finished_run(data)))
    assert plot_losses.main([]) == 0
    said = capfd.readouterr().err
    assert "Warning" not in said
    assert not recwarn.list
    assert ("lacks letters" in said) == (data == "照片")
    with Image.open("plots/accuracy.png") as picture:
        picture.verify()


@pytest.mark.parametrize(
    ("limits", "cores"),
    [
        ({}, 64),
        ({"cpu.max": "max 100000"}, 64),
        ({"cpu.max": "100000 100000"}, 1),
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 1),
    ],
)
def test_cores_are_those_that_the_process_may_use(tmp_path, monkeypatch, limits, cores):
    for name, text in limits.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    monkeypatch.setattr(files, "CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64), raising=False)
    assert files.usable_cores() == cores


def test_a_printed_command_can_be_pasted(in_tmp, narrow_encoder, photos, capsys):
    import train_byol

    assert train_byol.main(["--data", str(photos), *TINY, "--out", "my b.pt"]) == 0
    assert "python train_classifier.py --init 'my b.pt' --freeze" in capsys.readouterr().out
