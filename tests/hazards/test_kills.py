"""A run that is killed twenty times ends as one that was left alone, to the bit."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from photo_files import cartoon_folder
from processes import wait_for

from byol.run.metrics import read_jsonl

pytestmark = [pytest.mark.hazard, pytest.mark.slow]
# 15 steps an epoch: lines, epochs and checkpoints fall on different steps
SETTINGS = ["--labels", "8", "--image-size", "32", "--store-size", "32", "--hidden-dim", "32",
            "--projection-dim", "16", "--batch-size", "8", "--epochs", "36", "--log-every", "4",
            "--optimizer", "sgd", "--recipe", "cartoons", "--amp", "off", "--device", "cpu",
            "--save-every", "0.3", "--save-within", "0.7"]  # fmt: skip
# when to kill: at any time, while a checkpoint is written, while it is read back
WHEN = ["any"] * 9 + ["written"] * 7 + ["read back"] * 4


def start(root, photos, name, resume):
    command = [sys.executable, str(root / "train_byol.py"), "--data", str(photos), *SETTINGS,
               "--run-dir", name, "--out", f"{name}.pt", *(["--resume"] * resume)]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "BYOL_CACHE": "cache"}
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
    )


def inode(path):
    """It changes where a file is written anew, as metrics.jsonl is when a run starts."""
    return path.stat().st_ino if path.exists() else None


def test_a_run_that_is_killed_twenty_times_ends_as_an_unbroken_one(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photos = cartoon_folder(tmp_path / "photos", train=128, test=12)
    began = time.monotonic()
    unbroken = start(root, photos, "whole", resume=False)
    wait_for(Path("whole/metrics.jsonl").exists, unbroken, every=0.0005)
    loop_begins = time.monotonic() - began  # seconds, as long as it takes to start
    assert unbroken.wait(timeout=600) == 0, unbroken.communicate()
    whole_took = time.monotonic() - began

    draw = random.Random(0)
    when = draw.sample(WHEN, len(WHEN))
    folder, metrics = Path("part"), Path("part/metrics.jsonl")
    half_written, only_previous, fallen_back, at = 0, 0, 0, []
    for moment in when:
        resume = (folder / "last.pt").exists() or (folder / "previous.pt").exists()
        earlier = inode(metrics)
        process = start(root, photos, "part", resume)
        if moment == "any":
            time.sleep(draw.uniform(0.3, loop_begins + 4))
        else:
            wait_for(
                lambda e=earlier: inode(metrics) != e, process, every=0.0005
            )  # the loop begins
            time.sleep(draw.uniform(0, 3))
            pattern = "previous.pt" if moment == "read back" else ".last.pt.*.tmp"
            wait_for(lambda p=pattern: not list(folder.glob(p)), process, every=0.0005)
            wait_for(lambda p=pattern: list(folder.glob(p)), process, every=0.0005)
            if moment == "written":
                time.sleep(draw.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        _, errors = process.communicate()
        assert process.returncode == -signal.SIGKILL, errors  # it had not ended by itself
        assert "error" not in errors, errors
        fallen_back += "going on from" in errors
        half_written += any(folder.glob(".last.pt.*.tmp"))
        only_previous += (folder / "previous.pt").exists() and not (folder / "last.pt").exists()
        rows = read_jsonl(metrics) if metrics.exists() else []
        at.append(rows[-1]["step"] if rows else 0)
    process = start(root, photos, "part", resume=True)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    print(
        f"\n{len(when)} kills, at lines of the steps {at}; {half_written} left a half-written "
        f"checkpoint, {only_previous} only previous.pt, {fallen_back} went on from it; "
        f"unbroken {whole_took:.0f} s, in all {time.monotonic() - began:.0f} s"
    )
    assert half_written >= 3

    whole, part = (torch.load(f"{n}.pt", weights_only=True)["encoder"] for n in ("whole", "part"))
    assert whole.keys() == part.keys()
    for key, value in whole.items():
        assert torch.equal(value, part[key]), key
    whole, part = (read_jsonl(f"{name}/metrics.jsonl") for name in ("whole", "part"))
    assert [row["step"] for row in whole] == [
        step for step in range(1, 541) if step % 4 == 0 or step % 15 == 0
    ]
    for row in whole + part:
        assert row.pop("images_per_second") > 0
    assert part == whole
    assert not list(folder.glob(".*.tmp"))
