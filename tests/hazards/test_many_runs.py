"""Plots of hundreds of runs with odd names."""

import json
from pathlib import Path

import pytest

import plot_losses

pytestmark = pytest.mark.hazard
SUMMARY = {"init": "random", "init_file": "random", "freeze": True, "representation": "avgpool",
           "seed": 0, "data": "my $\\frac{ photos$", "image_size": 32, "labels": 8,
           "classes": ["a", "b"], "epochs": 2, "train_loss": 0.5, "test_accuracy": 0.5,
           "test_images": 12, "tested_on": "test split",
           "curve": [{"epoch": 1, "loss": 0.7}, {"epoch": 2, "loss": 0.5}]}  # fmt: skip
ROW = {"step": 1, "epoch": 0.5, "loss": 4.0, "lr": 0.1, "tau": 0.99, "spread": 0.8}


def write(name: str, file: str, text: str) -> None:
    folder = Path("runs") / name
    folder.mkdir(parents=True)
    (folder / file).write_text(text)


def test_two_hundred_runs_and_names_with_dollars(in_tmp, capsys, recwarn):
    for seed in range(200):
        write(f"c{seed}", "summary.json", json.dumps({**SUMMARY, "seed": seed}))
        rows = [ROW, {**ROW, "step": 2}]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        write(f"p{seed}$_{{$", "metrics.jsonl", lines)
        write(f"x{seed:03}", "summary.json", "{")
    assert plot_losses.main([]) == 0
    captured = capsys.readouterr()
    assert "x009 and 190 more\n" in captured.err
    assert "(200 seeds)" in captured.out
    assert not [w for w in recwarn if "layout" in str(w.message)]
    assert Path("plots/pretraining.png").stat().st_size > 10_000
