"""`--tensorboard`: the numbers of metrics.jsonl, each once, also of a run that was stopped."""

import sys
from pathlib import Path

import pytest
import torch
from refusals import fails

import train_byol
import train_classifier
from byol.config import ClassifierConfig
from byol.run.classifier_log import ClassifierLog
from byol.run.metrics import MetricsFile, read_jsonl

CPU = torch.device("cpu")


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Each point that is in the files, and so points that are there twice as well."""
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    from tensorboard.util.tensor_util import make_ndarray

    points = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for event in loader.EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                point = event.step, float(make_ndarray(value.tensor))
                points.setdefault(value.tag, []).append(point)
    return points


def lines(path: Path, at: str) -> dict[str, list[tuple[int, float]]]:
    """The same of a metrics file: for each column the values at `at`, which is a step."""
    rows = read_jsonl(path)
    names = [name for name in rows[0] if name != "step"]
    return {name: [(row[at], pytest.approx(row[name])) for row in rows] for name in names}


def stop() -> None:
    raise KeyboardInterrupt


@pytest.fixture
def installed():
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")


def test_a_run_has_the_points_of_its_lines(tiny, installed):
    tiny(tensorboard=True, losses="multi").train()
    run = Path("runs/byol")
    points = curves(run / "tensorboard")
    assert points == lines(run / "metrics.jsonl", at="step")
    assert {"loss", "loss_layer3.0", "lr", "tau", "images_per_second", "spread"} <= points.keys()
    assert [step for step, _ in points["loss"]] == [2, 3, 4, 6]


@pytest.mark.parametrize("before", [True, False])
def test_a_run_that_goes_on_has_no_step_twice(tiny, installed, before):
    """Also if it was killed after lines that are written again, or began without the option."""
    part = tiny(tensorboard=before, log_every=1)
    part.then = {4: stop}  # after the checkpoint of step 3 and the line of step 4
    with pytest.raises(KeyboardInterrupt):
        part.train()
    tiny(tensorboard=True, log_every=1, resume=True).train()
    run = Path("runs/byol")
    points = curves(run / "tensorboard")
    assert points == lines(run / "metrics.jsonl", at="step")
    assert [step for step, _ in points["loss"]] == [1, 2, 3, 4, 5, 6]


def test_a_run_that_starts_anew_leaves_no_curve_of_the_one_before(tiny, installed):
    tiny(tensorboard=True).train()
    tiny(overwrite=True).train()
    assert curves(Path("runs/byol/tensorboard")) == {}


def test_a_classifier_has_a_point_for_each_epoch(tmp_path, installed):
    schedule = ClassifierConfig(epochs=3, batch_size=4).schedule(8)
    scores, truth = torch.eye(2).repeat(2, 1), torch.tensor([0, 1, 0, 0])

    def go(log: ClassifierLog, steps: range) -> dict:
        log.begin(steps[0])
        with log:
            for step in steps:
                log.note(torch.tensor(1.0 / (step + 1)), scores, truth)
                log.after_step(step + 1)
        return log.state_dict()

    state = go(ClassifierLog(tmp_path, schedule, "--lr", CPU, True), range(3))
    again = ClassifierLog(tmp_path, schedule, "--lr", CPU, True)
    again.load_state_dict(state)
    go(again, range(3, 6))
    points = curves(tmp_path / "tensorboard")
    assert points == lines(tmp_path / "metrics.partial.jsonl", at="epoch")
    assert [epoch for epoch, _ in points["accuracy"]] == [1, 2, 3]


def test_the_option_changes_nothing_else_and_is_no_reason_not_to_go_on(tiny, installed):
    plain = tiny(run_dir="plain", out="plain.pt").train()
    part = tiny(tensorboard=True)
    part.then = {4: stop}
    with pytest.raises(KeyboardInterrupt):
        part.train()
    whole = tiny(resume=True).train()
    assert torch.equal(plain.model.weight, whole.model.weight)


@pytest.mark.parametrize("script", [train_byol, train_classifier], ids=lambda s: s.__name__)
def test_without_tensorboard_it_is_one_sentence_before_anything_else(
    script, in_tmp, photos, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    code = script.main(["--data", str(photos), "--tensorboard"])
    fails(capsys, code, "--tensorboard needs TensorBoard", "pip install tensorboard")
    assert list(in_tmp.iterdir()) == []


def test_looks_at_the_health_have_curves_of_their_own(tmp_path, installed):
    with MetricsFile(tmp_path / "metrics.jsonl", tensorboard=True) as file:
        file.write(step=1, epoch=0.5, loss=2.0)
        for of, step, rank in (("random", 0, 8.0), ("encoder", 2, 5.0)):
            file.write(kind="health", of=of, step=step, epoch=step / 2, effective_rank=rank)
    points = curves(tmp_path / "tensorboard")
    assert points["loss"] == [(1, 2.0)]
    assert points["health/random/effective_rank"] == [(0, 8.0)]
    assert points["health/encoder/effective_rank"] == [(2, 5.0)]
