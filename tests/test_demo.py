"""The claim of `make demo`, measured: BYOL's frozen features beat random ones on new drawings."""

import json
from pathlib import Path

import numpy as np
import pytest

import train_byol
import train_classifier

CARTOONS = ["--config", str(Path(__file__).resolve().parent.parent / "configs" / "cartoons.toml")]


@pytest.mark.slow
def test_frozen_byol_beats_frozen_random(tmp_path, monkeypatch):
    """By at least 5 points and more than twice the spread, over 3 seeds of the classifier."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BYOL_CACHE", str(tmp_path / "packed"))
    assert train_byol.main(CARTOONS) == 0
    accuracy = {}
    for init in ("random", "byol.pt"):
        for seed in range(3):
            argv = ["--init", init, "--freeze", "--seed", str(seed), "--run-dir", f"{init}{seed}"]
            assert train_classifier.main([*CARTOONS, *argv]) == 0
            summary = json.loads(Path(f"{init}{seed}/summary.json").read_text())
            assert summary["tested_on"] == "test split"
            accuracy.setdefault(init, []).append(100 * summary["test_accuracy"])
    gap = np.mean(accuracy["byol.pt"]) - np.mean(accuracy["random"])
    spread = max(np.std(values, ddof=1) for values in accuracy.values())
    assert gap >= 5, accuracy
    assert gap > 2 * spread, accuracy
