"""Small runs that torchrun starts, and their results."""

from pathlib import Path

import torch

from byol.run.metrics import read_jsonl

SCRIPT = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
import pytest
from narrow_encoder import narrow
narrow(pytest.MonkeyPatch())  # a step takes a tenth of the time
from byol.evaluation import features
features.BATCH = 5  # there are few photos, and each process shall have its share
import {script}
sys.exit({script}.main())
"""
TINY = ["--image-size", "32", "--hidden-dim", "32", "--projection-dim", "16", "--batch-size", "8",
        "--labels", "0", "--save-every", "0.3", "--health-every", "0", "--device", "cpu",
        "--log-every", "1"]  # fmt: skip


def steps_of(name: str) -> int:
    path = Path(name, "metrics.jsonl")
    rows = read_jsonl(path) if path.exists() else []
    return rows[-1]["step"] if rows else 0


def same_result(one: str, other: str) -> None:
    """Compare the encoders to the bit, and all lines but their speed."""
    ours, theirs = (torch.load(f"{name}.pt", weights_only=True)["encoder"] for name in (one, other))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    ours, theirs = (read_jsonl(f"{name}/metrics.jsonl") for name in (one, other))
    for row in (*ours, *theirs):
        del row["images_per_second"]
    assert ours == theirs
