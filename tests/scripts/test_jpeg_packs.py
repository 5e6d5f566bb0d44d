"""The scripts with photos that are stored as JPEGs."""

import json
import signal
from pathlib import Path

import pytest
import torch
from narrow_encoder import evaluate_fast
from refusals import fails
from test_pretraining import signal_after

import evaluate
import explore
from byol.run import checkpoint

RUN = Path("runs/byol")


@pytest.fixture(autouse=True)
def _narrow(narrow_encoder):
    pass


def weights(path) -> dict[str, torch.Tensor]:
    return checkpoint.load(path, checkpoint.ENCODER)["encoder"]


def same(one: dict, other: dict) -> bool:
    return all(torch.equal(value, other[key]) for key, value in one.items())


def test_resume_gives_the_result_of_an_unbroken_run(pretrain, capsys):
    jpeg = ["--pack", "jpeg", "--epochs", "1"]
    with signal_after(2, signal.SIGINT):
        assert pretrain(*jpeg) == 130
    fails(
        capsys,
        pretrain("--epochs", "1", "--resume"),
        "--resume",
        "pack was 'jpeg' and is now 'raw'",
    )
    assert pretrain(*jpeg, "--resume") == 0
    assert pretrain(*jpeg, "--run-dir", "whole", "--out", "whole.pt") == 0
    assert same(weights("byol.pt"), weights("whole.pt"))
    assert json.loads((RUN / "config.json").read_text())["pack"] == "jpeg"


def test_what_follows_reads_the_photos_as_they_were_stored(
    pretrain, classify, photos, tmp_path, monkeypatch
):
    """Of the run's photos there is no second pack, unless it is asked for."""
    evaluate_fast(monkeypatch)
    monkeypatch.setenv("BYOL_CACHE", str(tmp_path / "cache"))

    def packs() -> list[str]:
        manifests = map(Path.read_text, (tmp_path / "cache").glob("*/manifest.json"))
        return sorted(json.loads(manifest).get("kind", "raw") for manifest in manifests)

    assert pretrain("--pack", "jpeg", "--epochs", "1") == 0
    assert classify("--init", "byol.pt", "--freeze") == 0
    init = ["--init", "byol.pt", "--device", "cpu", "--out"]
    assert explore.main(["embed", str(photos), *init, "features.npz"]) == 0
    judging = ["byol.pt", "--frozen-only", "--labels", "8", "--seeds", "1", "--device", "cpu"]
    assert evaluate.main(judging) == 0
    assert packs() == ["jpeg"]
    assert classify("--init", "byol.pt", "--freeze", "--pack", "raw", "--runs", "others") == 0
    assert packs() == ["jpeg", "raw"]
    assert evaluate.main([*judging, "--pack", "raw", "--out", "raw"]) == 0
    assert packs() == ["jpeg", "raw"]


def test_an_unknown_kind_is_refused(pretrain, capsys):
    fails(capsys, pretrain("--pack", "png"), "pack must be one of raw, jpeg, not 'png'")
