"""What the benchmarks share."""

from __future__ import annotations

import platform
import subprocess
import time
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
    model = BYOL(encoder, config.hidden_dim, config.projection_dim, config.trained_blocks)
    return prepare(model, device)
