"""Classifiers, evaluations and plots that are killed at random moments end as unbroken ones."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from narrow_encoder import write_encoder
from same_runs import same_result

import train_classifier

pytestmark = [pytest.mark.hazard, pytest.mark.slow]
FINE = ["--labels", "8", "--batch-size", "4", "--amp", "off"]


@pytest.mark.parametrize("script", ["train_classifier.py", "evaluate.py", "plot_losses.py"])
def test_killed_at_random_moments_the_same_command_ends_in_the_same_result(
    root, photos, in_tmp, script
):
    """SIGKILL, SIGTERM and SIGINT in turn; after each the plots read a whole run, or none."""

    def start(*flags) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, str(root / script), *flags],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    write_encoder("byol.pt", photos)
    argv = {
        "train_classifier.py": [
            *("--init", "byol.pt", *FINE, "--epochs", "60", "--save-every", "0.2", "--resume"),
        ],
        "evaluate.py": [
            *("byol.pt", *FINE, "--seeds", "1", "--epochs", "12", "--supervised-epochs", "18"),
        ],
        "plot_losses.py": ["--runs", "runs"],
    }[script]
    if script == "plot_losses.py":
        seeds = ["--epochs", "3", "--seeds", "3"]
        assert train_classifier.main(["--init", "byol.pt", *FINE, *seeds]) == 0
    where = {"train_classifier.py": "--run-dir", "evaluate.py": "--out", "plot_losses.py": "--out"}
    began = time.monotonic()
    whole = start(*argv, where[script], "whole")
    assert whole.wait(timeout=600) == 0, whole.communicate()
    took = time.monotonic() - began
    draw = random.Random(0)
    for number in [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGKILL] * 3:
        process = start(*argv, where[script], "part")
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
    process = start(*argv, where[script], "part")
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    for path in Path("whole").rglob("summary.json"):
        same_result(path.parent, Path("part") / path.parent.relative_to("whole"))
    if script == "evaluate.py":
        whole, part = (json.loads(Path(f"{n}/table.json").read_text()) for n in ("whole", "part"))
        assert whole["cells"] == part["cells"]
