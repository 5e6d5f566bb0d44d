"""One of the processes of torchrun is killed: the others end, and torchrun starts all again."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from processes import wait_for

from byol.run.metrics import read_jsonl

pytestmark = [
    pytest.mark.hazard,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc"),
]

SCRIPT = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
import pytest
from narrow_encoder import narrow
narrow(pytest.MonkeyPatch())  # a step takes a tenth of the time
import train_byol
sys.exit(train_byol.main())
"""
KILLS = 10


@pytest.fixture
def torchrun(root, photos, in_tmp):
    """Start two processes that train, in this folder."""
    Path("train.py").write_text(SCRIPT.format(root=str(root), tests=str(root / "tests")))
    flags = [*("--image-size", "32", "--hidden-dim", "32", "--projection-dim", "16")]
    flags += ["--batch-size", "8", "--labels", "0", "--save-every", "0.3", "--device", "cpu"]
    flags += ["--health-every", "0", "--data", str(photos), "--resume", "auto"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]

    def start(name: str, *more: str, restarts: int = 0) -> subprocess.Popen:
        with open(f"{name}.txt", "w") as told:
            return subprocess.Popen(
                [*command, f"--max-restarts={restarts}", "train.py", *flags, *more,
                 "--run-dir", name, "--out", f"{name}.pt"],
                stdout=told, stderr=told,
            )  # fmt: skip

    return start


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


def steps_of(name: str) -> int:
    path = Path(name, "metrics.jsonl")
    rows = read_jsonl(path) if path.exists() else []
    return rows[-1]["step"] if rows else 0


def same_result(one: str, other: str) -> None:
    ours, theirs = (torch.load(f"{name}.pt", weights_only=True)["encoder"] for name in (one, other))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    ours, theirs = (read_jsonl(f"{name}/metrics.jsonl") for name in (one, other))
    for row in (*ours, *theirs):
        del row["images_per_second"]
    assert ours == theirs


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["kill", "term"])
def test_killed_at_random_moments_the_run_ends_in_the_same_result(torchrun, number):
    """Also while it starts. The other process ends within seconds."""
    epochs = ["--epochs", "30"]
    began = time.monotonic()
    assert torchrun("whole", *epochs).wait(timeout=600) == 0, Path("whole.txt").read_text()
    took = time.monotonic() - began
    draw = random.Random(0)
    process = torchrun("part", *epochs, restarts=KILLS)
    killed = set()
    for _ in range(KILLS):
        wait_for(lambda: set(workers(process)) - killed, process)
        time.sleep(draw.uniform(0, 0.5 * took))
        both = [pid for pid in workers(process) if is_alive(pid)]
        if len(both) < 2 or process.poll() is not None:
            break
        os.kill(draw.choice(both), number)
        killed |= set(both)
        at = time.monotonic()
        while any(map(is_alive, both)):
            assert time.monotonic() - at < 15
            time.sleep(0.05)
        print(f"killed one at step {steps_of('part')}, all ended in {time.monotonic() - at:.1f} s")
    assert process.wait(timeout=600) == 0, Path("part.txt").read_text()
    assert killed
    same_result("whole", "part")  # to the bit
    told = re.findall("another process of this run has ended", Path("part.txt").read_text())
    print(f"{len(killed) // 2} kills, told {len(told)} times")
