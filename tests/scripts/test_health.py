"""Looks at the health of a run: what they see, that they change nothing, and that they go on."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from test_pretraining import RUN, assert_same, signal_after, weights

import train_byol
from byol.config import PretrainConfig
from byol.encoder import Encoder
from byol.evaluation import linear_and_knn
from byol.evaluation.health import Health, epochs_between, photos_to_look_at
from byol.hardware.step import prepare
from byol.report.pretraining import draw_pretraining
from byol.report.runs import read_pretraining
from byol.run.metrics import read_jsonl
from byol.schedules import Schedule
from data import make_split, open_photos

CPU = torch.device("cpu")
PROBES = {"knn_accuracy", "linear_accuracy"}
MEASURES = {"effective_rank", "first_direction", "alignment", "uniformity"}


@pytest.fixture(autouse=True)
def _fast(narrow_encoder, monkeypatch):
    """Narrow encoders, and probes of two strengths."""
    monkeypatch.setattr(linear_and_knn, "STRENGTHS", [1e3, 10.0])


@pytest.fixture
def pretrain_watched(tiny):
    """Run `train_byol.py` with looks as often as it wants, or as a flag says."""
    return lambda *flags: train_byol.main([*tiny, "--health-every", "auto", *flags])


def looks(run=RUN) -> list[dict]:
    return read_jsonl(run / "metrics.jsonl", "health")


def test_each_look_is_a_line_of_its_own_and_random_weights_come_first(pretrain_watched):
    assert pretrain_watched() == 0
    found = looks()
    assert [(row["of"], row["step"], row["epoch"]) for row in found] == [
        ("random", 0, 0), ("encoder", 3, 1), ("encoder", 6, 2)
    ]  # fmt: skip
    for row in found:
        assert row.keys() - {"kind", "of", "step", "epoch"} == MEASURES | PROBES
        assert all(np.isfinite(row[key]) for key in MEASURES | PROBES)
    assert all("kind" not in row for row in read_jsonl(RUN / "metrics.jsonl"))


@pytest.fixture(scope="module")
def looked_at(pretrain_apart):
    """The folder of a run of four epochs with a look after each second one."""
    return pretrain_apart("--epochs", "4", "--health-every", "2", narrowly=True).folder


@pytest.mark.parametrize(
    ("every", "steps"), [("0", []), ("1", [0, 3, 6, 9, 12]), ("3", [0, 9, 12])]
)
def test_looking_changes_nothing_of_the_training(pretrain_watched, looked_at, every, steps):
    assert pretrain_watched("--epochs", "4", "--health-every", every) == 0
    assert_same(weights(looked_at / "byol.pt"), weights("byol.pt"))
    lines = [read_jsonl(run / "metrics.jsonl") for run in (looked_at / RUN, RUN)]
    for row in lines[0] + lines[1]:
        row.pop("images_per_second")
    assert lines[0] == lines[1]
    assert [row["step"] for row in looks(looked_at / RUN)] == [0, 6, 12]
    assert [row["step"] for row in looks()] == steps


def test_a_run_that_was_stopped_has_the_looks_of_an_unbroken_one(pretrain_watched):
    assert pretrain_watched("--run-dir", "whole", "--out", "whole.pt") == 0
    going_on = []
    for step in (1, 3, 5):
        with signal_after(step, signal.SIGTERM):
            assert pretrain_watched("--save-every", "60", *going_on) == 143
        going_on = ["--resume"]
    assert pretrain_watched("--resume") == 0
    assert looks() == looks(Path("whole"))


def test_without_labels_the_rest_is_seen(pretrain_watched):
    assert pretrain_watched("--labels", "0") == 0
    assert looks()[-1].keys() - {"kind", "of", "step", "epoch"} == MEASURES


def test_given_weights_are_seen_before_the_first_step(pretrain_watched):
    assert pretrain_watched("--epochs", "1") == 0
    given = "--init", "byol.pt", "--run-dir", "given", "--out", "given.pt"
    assert pretrain_watched("--epochs", "1", *given) == 0
    found = looks(Path("given"))
    assert [(row["of"], row["step"]) for row in found[:2]] == [("random", 0), ("encoder", 0)]
    assert found[0] == looks()[0]
    same = MEASURES | PROBES
    assert {key: found[1][key] for key in same} == {key: looks()[-1][key] for key in same}


def test_hidden_labels_are_not_read_and_the_encoder_stays_as_it_is(photos):
    config = PretrainConfig(data=str(photos), image_size=32, store_size=32, view_size=32, labels=12)
    found = open_photos(config.data, 32)
    split = make_split(found, config.labels)
    schedule = Schedule(len(split.learned), 8, 2, 0, 0.1, 0)
    torch.manual_seed(0)
    encoder = prepare(Encoder(), CPU).train()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    random_numbers = torch.get_rng_state()
    one = Health(config, found, split, schedule, CPU, None).look(encoder)
    assert encoder.training
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_numbers)
    hidden = np.setdiff1d(np.arange(len(found.names)), split.labelled)
    found.labels[hidden] = 1 - found.labels[hidden]
    assert Health(config, found, split, schedule, CPU, None).look(encoder) == one
    found.labels[split.labelled[:4]] = 1 - found.labels[split.labelled[:4]]
    assert Health(config, found, split, schedule, CPU, None).look(encoder) != one


@pytest.mark.parametrize(
    ("images", "epochs", "every"),
    [(24_748, 240, 10), (24_748, 120, 5), (24_748, 12, 3), (4_000, 8, 2), (24, 2, 1), (24, 1, 1)],
)
def test_there_are_4_to_24_looks_and_many_images_between_them(images, epochs, every):
    assert epochs_between(Schedule(images, 8, epochs, 0, 0.1, 0)) == every


@pytest.mark.parametrize(
    ("images", "epochs", "photos"), [(24_748, 120, 1_000), (3_800, 8, 608), (24, 2, 100)]
)
def test_a_short_run_looks_at_fewer_photos(images, epochs, photos):
    assert photos_to_look_at(Schedule(images, 8, epochs, 0, 0.1, 0)) == photos


def test_the_picture_has_the_looks_and_random_weights_and_old_files_have_none(pretrain_watched):
    assert pretrain_watched() == 0
    rows = read_pretraining(RUN)
    axes = {axis.get_ylabel(): axis for axis in draw_pretraining({"a": rows}).axes}
    for label, key, scale in (
        ("kNN, labelled photos (%)", "knn_accuracy", 100),
        ("effective rank of features", "effective_rank", 1),
    ):
        encoder, random = axes[label].lines[:2]  # the legend has a third
        random_row, *seen = looks()
        assert list(encoder.get_xdata()) == [1, 2]
        assert list(encoder.get_ydata()) == [scale * row[key] for row in seen]
        assert set(random.get_ydata()) == {scale * random_row[key]}
    old = [row for row in rows if "kind" not in row]
    (RUN / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in old))
    assert read_pretraining(RUN) == old
    assert len(draw_pretraining({"a": old}).axes) == 4


def test_given_weights_that_are_bad_are_told_before_the_first_step(pretrain_watched, capsys):
    assert pretrain_watched("--epochs", "1") == 0
    kept = torch.load("byol.pt", weights_only=True)
    kept["encoder"]["layer4.1.bn2.weight"][1:] = 0  # and what passes by it
    kept["encoder"]["layer4.0.bn2.weight"][1:] = 0
    kept["encoder"]["layer4.0.downsample.1.weight"][1:] = 0
    kept["encoder"]["layer4.0.downsample.1.bias"][1:] = 0
    torch.save(kept, "bad.pt")
    capsys.readouterr()
    given = "--init", "bad.pt", "--run-dir", "given", "--out", "given.pt", "--health-every", "2"
    assert pretrain_watched("--epochs", "1", *given) == 0
    assert looks(Path("given"))[1]["first_direction"] > 0.9
    assert "of the variance of the features lies in one direction at epoch 0," in (
        capsys.readouterr().err
    )
