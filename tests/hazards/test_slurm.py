"""docs/slurm.sh, with stand-ins for Slurm's commands that start two nodes on this machine."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import wait_for
from torchrun import SCRIPT, TINY, same_result, steps_of

pytestmark = [pytest.mark.hazard, pytest.mark.slow]

SRUN = """#!/bin/bash
code=0
trap 'kill -TERM $nodes' TERM
for node in $(seq "$SLURM_NNODES"); do
    BYOL_CACHE=$BYOL_CACHE-of-node-$node "$@" &
    nodes="$nodes $!"
done
for node in $nodes; do
    wait "$node" || code=1
    wait "$node"  # a signal ends the first wait
done
exit "$code"
"""
SCONTROL = """#!/bin/bash
case $1 in
    show) echo localhost ;;
    requeue) echo "$2" >> requeued.txt ;;
esac
"""


@pytest.fixture
def sbatch(root, photos, in_tmp):
    """Start the script, as Slurm does, with the same number of the job each time."""
    places = {"root": str(root), "tests": str(root / "tests"), "script": "train_byol"}
    Path("train_byol.py").write_text(SCRIPT.format(**places))
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        Path(name).write_text(text)
        Path(name).chmod(0o755)
    path = os.pathsep.join([str(in_tmp), str(Path(sys.executable).parent), os.environ["PATH"]])
    slurm = {"SLURM_JOB_ID": "7", "SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "node[1-2]"}
    environment = {**os.environ, **slurm, "PATH": path, "PROCESSES": "1", "PORT": "29577"}

    def start(name: str) -> subprocess.Popen:
        flags = [*TINY, "--data", str(photos), "--epochs", "20"]
        with open(f"{name}.txt", "a") as told:
            return subprocess.Popen(
                [root / "docs" / "slurm.sh", *flags, "--run-dir", name, "--out", f"{name}.pt"],
                stdout=told, stderr=told, env=environment,
            )  # fmt: skip

    return start


def test_a_job_that_is_stopped_is_queued_again_and_goes_on(sbatch):
    """Twice. The result is that of an unbroken job, to the bit."""
    whole = sbatch("whole")
    assert whole.wait(timeout=300) == 0, Path("whole.txt").read_text()
    assert not Path("requeued.txt").exists()
    for done in (20, 50):
        job = sbatch("part")
        wait_for(lambda done=done: steps_of("part") >= done, job)
        job.send_signal(signal.SIGTERM)
        assert job.wait(timeout=100) != 0
        assert steps_of("part") < 80
    assert Path("requeued.txt").read_text().split() == ["7", "7"]
    last = sbatch("part")
    assert last.wait(timeout=300) == 0, Path("part.txt").read_text()
    told = Path("part.txt").read_text()
    assert told.count("going on at step") == 2
    assert told.count("2 processes on 2 machines") == 3
    same_result("whole", "part")
