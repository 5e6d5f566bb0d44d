"""One of the processes of torchrun is killed: the others end, and torchrun starts all again."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from processes import wait_for
from torchrun import SCRIPT, TINY, same_result, steps_of

pytestmark = [
    pytest.mark.hazard,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc"),
]

KILLS = 10


@pytest.fixture
def torchrun(root, photos, in_tmp):
    """Start two processes that train, in this folder."""
    flags = ["--data", str(photos), "--resume", "auto"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]

    started = []

    def start(
        name: str, *more: str, restarts: int = 0, script: str = "train_byol"
    ) -> subprocess.Popen:
        places = {"root": str(root), "tests": str(root / "tests"), "script": script}
        Path("train.py").write_text(SCRIPT.format(**places))
        with open(f"{name}.txt", "w") as told:
            process = subprocess.Popen(
                [*command, f"--max-restarts={restarts}", "train.py", *flags, *more,
                 "--run-dir", name],
                stdout=told, stderr=told,
            )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.terminate()  # it ends what it has started
        process.wait(timeout=60)


def workers(process: subprocess.Popen) -> list[int]:
    """List the processes that torchrun has started, and that live."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(pid) for pid in children.split()]


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def both_began(process: subprocess.Popen, earlier: list[int]) -> list[int]:
    """Wait until torchrun has started two others than the `earlier` ones."""
    wait_for(lambda: len(set(workers(process)) - set(earlier)) == 2, process)
    return sorted(set(workers(process)) - set(earlier))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["kill", "term"])
def test_killed_at_random_moments_the_run_ends_in_the_same_result(torchrun, number):
    """Ten times, half of them while it starts. The other process ends within seconds."""
    epochs = [*TINY, "--epochs", "60", "--out"]
    assert torchrun("whole", *epochs, "whole.pt").wait(timeout=600) == 0, Path(
        "whole.txt"
    ).read_text()
    draw = random.Random(0)
    process, both = torchrun("part", *epochs, "part.pt", restarts=KILLS), []
    for kill in range(KILLS):
        both, before = both_began(process, both), steps_of("part")
        if kill % 2:
            wait_for(lambda before=before: steps_of("part") > before + 1, process)
            time.sleep(draw.uniform(0, 1))
        else:
            time.sleep(draw.uniform(0, 8))
        os.kill(draw.choice(both), number)
        at = time.monotonic()
        while any(map(is_alive, both)):
            assert time.monotonic() - at < 15
            time.sleep(0.05)
        print(f"killed one at step {steps_of('part')}, all ended in {time.monotonic() - at:.1f} s")
    assert process.wait(timeout=600) == 0, Path("part.txt").read_text()
    same_result("whole", "part")
    told = Path("part.txt").read_text().count("another process of this run has ended")
    print(f"told {told} times")
    assert told <= KILLS
    if number == signal.SIGKILL:  # SIGTERM lets the step end and saves
        assert told


@pytest.mark.parametrize("rank", [0, 1])
def test_a_classifier_whose_first_process_or_helper_is_killed_ends_in_the_same_result(
    torchrun, rank
):
    """While it starts, computes features or trains."""
    flags = ["--freeze", "--labels", "20", "--folds", "0", "--batch-size", "8", "--epochs", "2000",
             "--save-every", "0.2", "--device", "cpu"]  # fmt: skip
    script = {"script": "train_classifier"}
    assert torchrun("whole", *flags, **script).wait(timeout=200) == 0, Path("whole.txt").read_text()
    process, both = torchrun("part", *flags, restarts=3, **script), []
    state = Path("part", "last.pt")

    def saved() -> int:
        return state.stat().st_mtime_ns if state.exists() else 0

    for kill in range(3):
        both, before = both_began(process, both), saved()
        if kill == 0:
            time.sleep(2)
        else:
            wait_for(lambda before=before: saved() > before, process)
        os.kill(both[rank], signal.SIGKILL)
        at = time.monotonic()
        while any(map(is_alive, both)):
            assert time.monotonic() - at < 15
            time.sleep(0.05)
    assert process.wait(timeout=200) == 0, Path("part.txt").read_text()
    assert Path("part.txt").read_text().count("going on at step") >= 1
    ours, theirs = (torch.load(f"{name}/classifier.pt", weights_only=True)
                    for name in ("whole", "part"))  # fmt: skip
    for part in ("encoder", "head"):
        assert all(torch.equal(value, theirs[part][name]) for name, value in ours[part].items())
