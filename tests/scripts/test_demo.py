"""The claim of `make demo`, measured: BYOL's frozen features beat random ones on new drawings."""

import json
from pathlib import Path

import numpy as np
import pytest

import train_byol
import train_classifier


@pytest.mark.slow
def test_frozen_byol_beats_frozen_random(root):
    """By at least 12 points and more than twice the spread, over 3 seeds of the classifier."""
    cartoons = ["--config", str(root / "configs" / "cartoons.toml")]
    assert train_byol.main(cartoons) == 0
    accuracy = {}
    for init in ("random", "byol.pt"):
        for seed in range(3):
            argv = ["--init", init, "--freeze", "--seed", str(seed), "--run-dir", f"{init}{seed}"]
            assert train_classifier.main([*cartoons, *argv]) == 0
            summary = json.loads(Path(f"{init}{seed}/summary.json").read_text())
            assert summary["tested_on"] == "test split"
            accuracy.setdefault(init, []).append(100 * summary["test_accuracy"])
    gap = np.mean(accuracy["byol.pt"]) - np.mean(accuracy["random"])
    spread = max(np.std(values, ddof=1) for values in accuracy.values())
    assert gap >= 12, accuracy
    assert gap > 2 * spread, accuracy
