"""What the benchmarks share."""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from byol.config import PretrainConfig
from byol.encoder import Encoder, check_inner_blocks
from byol.hardware.step import prepare
from byol.method import BYOL

ROOT = Path(__file__).resolve().parent.parent


def now(device: torch.device) -> float:
    """Read the clock, in seconds, after the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def versions() -> dict[str, str]:
    """Give the versions that belong to a result: Python, torch, numpy, this project's commit."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    )
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "commit": done.stdout.strip() or "unknown",
    }


def build_model(config: PretrainConfig, device: torch.device) -> BYOL:
    """Build the networks of train_byol.py on the device, with random weights."""
    check_inner_blocks(config.trained_blocks, config.arch, config.stem, config.view_side)
    torch.manual_seed(0)
    encoder = Encoder(config.arch, config.stem)
    model = BYOL(
        encoder, config.hidden_dim, config.projection_dim, config.trained_blocks, config.whitening
    )
    return prepare(model, device)


def train_until(
    steps: int, flags: list[str], folder: Path, look: Callable[[int], None] = lambda process: None
) -> list[dict]:
    """Run train_byol.py in a process of its own until it has logged `steps` steps: their lines.

    folder: for the run. look: is called with the number of the process, again and again.
    """
    run, said = folder / "run", folder / "training.txt"
    metrics = run / "metrics.jsonl"
    command = [sys.executable, "train_byol.py", *flags]
    command += ["--run-dir", str(run), "--out", str(run / "b.pt"), "--log-every", "1"]
    with open(said, "wb") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file)
    try:
        while not metrics.exists() or metrics.read_bytes().count(b"\n") < steps:
            if process.poll() is not None:
                raise SystemExit(f"train_byol.py stopped too early:\n{said.read_text()}")
            look(process.pid)
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    return list(map(json.loads, metrics.read_text().splitlines()[:steps]))


def median_speed(lines: list[dict]) -> float:
    """Give the images/s of the median step, without the first fourth."""
    speeds = [line["images_per_second"] for line in lines if "images_per_second" in line]
    return round(statistics.median(speeds[len(speeds) // 4 :]), 1)
