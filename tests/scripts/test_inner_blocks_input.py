"""Losses on inner blocks as train_byol.py takes and shows them, and what bad settings of them get.

The encoders are narrow.
"""

from pathlib import Path

import pytest
from narrow_encoder import narrow
from refusals import fails

import train_byol
import train_classifier
from byol.run.metrics import read_jsonl

MULTI, CLASSIC = ["--losses", "multi"], ["--losses", "classic"]
TWO_WEIGHTS = ["--loss-weights", "1", "1"]


@pytest.fixture(autouse=True)
def _narrow(monkeypatch):
    narrow(monkeypatch)


def test_each_loss_is_a_column_and_its_weight_counts(pretrain):
    weights = ["--loss-weights", "1", "0.5", "0"]
    assert pretrain(*MULTI, *weights, "--epochs", "1", "--log-every", "1") == 0
    rows = read_jsonl("runs/byol/metrics.jsonl")
    assert len(rows) == 3
    for row in rows:
        losses = [row[f"loss_{name}"] for name in ("avgpool", "layer3.0", "layer2.0")]
        assert all(0 < loss < 8 for loss in losses)
        assert len(set(losses)) == 3
        assert row["loss"] == pytest.approx(losses[0] + 0.5 * losses[1], rel=1e-5)
        assert row["spread"] == row["spread_avgpool"]


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (
            [*MULTI, *TWO_WEIGHTS, "--inner-blocks", "layer2.5", "--inner-grids", "2"],
            ("layer2.5", "layer2.0"),
        ),
        ([*MULTI, "--inner-blocks", "layer2.0"], ("inner_grids 2 4", "one number for each")),
        (
            [*MULTI, "--inner-blocks", "layer2.0", "layer2.0"],
            ("inner_blocks layer2.0 layer2.0", "once"),
        ),
        (
            [*CLASSIC, "--inner-blocks", "layer2.0", "--inner-grids", "2"],
            ("--inner-blocks", "--losses multi"),
        ),
        ([*CLASSIC, "--loss-weights", "1"], ("--loss-weights", "--losses multi")),
        ([*MULTI, "--inner-grids", "2", "5"], ("inner_grids 5 of layer2.0", "4 x 4")),
        ([*MULTI, "--inner-grids", "0", "4"], ("inner_grids", "at least 1")),
        ([*MULTI, *TWO_WEIGHTS], ("loss_weights 1 1", "layer2.0")),
        ([*MULTI, "--loss-weights", "0", "0", "0"], ("loss_weights 0 0 0",)),
        ([*MULTI, "--loss-weights", "1", "-1", "0"], ("loss_weights", "at least 0")),
        ([*MULTI, "--loss-weights", "1", "inf", "0"], ("loss_weights", "finite")),
        (["--losses", "many"], ("losses", "classic", "multi")),
        (["--labels", "most"], ("--labels", "a whole number or all")),
    ],
)
def test_bad_settings_of_pretraining(tiny, capsys, extra, words):
    at = tiny.index("--losses")
    code = train_byol.main([*tiny[:at], *tiny[at + 2 :], *extra])
    fails(capsys, code, *words)
    assert not Path("runs").exists()


def test_no_inner_blocks_at_all(photos, capsys):
    Path("none.toml").write_text("inner_blocks = []\ninner_grids = []\n")
    config = ["--config", "none.toml", "--data", str(photos), "--image-size", "32"]
    fails(
        capsys, train_byol.main([*config, "--losses", "multi"]), "inner_blocks", "one block or more"
    )
    code = train_classifier.main([*config, "--labels", "8", "--representation", "combined"])
    fails(capsys, code, "inner_blocks", "one block or more")
    code = train_classifier.main([*config, "--labels", "8", "--inner-grids", "2"])
    fails(capsys, code, "--inner-grids", "--representation combined")
    assert not Path("runs").exists()


def test_bad_settings_of_a_classifier(photos, capsys, tmp_path):
    data = ["--data", str(photos), "--image-size", "12", "--labels", "8"]
    code = train_classifier.main([*data, "--representation", "combined"])
    fails(capsys, code, "inner_grids 2 of layer3.0", "1 x 1 at 12 pixels")
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, photo in enumerate(sorted(photos.glob("train/*/*.png"))[:6]):
        (flat / f"{number}.png").write_bytes(photo.read_bytes())
    for labels in ("all", "4"):
        code = train_classifier.main(
            ["--data", str(flat), "--image-size", "32", "--labels", labels]
        )
        fails(capsys, code, "flat", "classifier needs two or more")
