"""What a run says as it goes: lines, warnings, forecast, and when it gives up."""

import datetime
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from byol.config import ClassifierConfig
from byol.errors import UserError
from byol.run import checkpoint
from byol.run.classifier_log import ClassifierLog
from byol.run.forecast import Forecast
from byol.run.metrics import MetricsFile, read_jsonl
from byol.schedules import lr_at, tau_at

RUN = Path("runs/byol")
CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch):
    """The clock of the log, which stands unless a test moves it: `clock.now`, in seconds."""
    clock = SimpleNamespace(now=0.0)
    clock.perf_counter = lambda: clock.now
    for module in ("pretrain_log", "classifier_log", "forecast"):
        monkeypatch.setattr(f"byol.run.{module}.time", clock)
    return clock


def rows() -> list[dict]:
    return read_jsonl(RUN / "metrics.jsonl")


# ---- metrics.jsonl


def test_lines_after_the_step_of_a_checkpoint_are_written_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsFile(path) as metrics:
        for step in (2, 4, 6):
            metrics.write(step=step)
        assert [row["step"] for row in read_jsonl(path)] == [2, 4, 6]  # flushed at once
        metrics.flush_to_disk()
    with open(path, "a") as file:
        file.write('{"step": 8, "lo')  # the machine went down
    assert [row["step"] for row in read_jsonl(path)] == [2, 4, 6]
    with MetricsFile(path, keep_through=4) as metrics:
        metrics.write(step=5)
    assert path.read_text() == '{"step": 2}\n{"step": 4}\n{"step": 5}\n'
    with MetricsFile(path):
        assert path.read_text() == ""


# ---- lines of pretraining


def test_a_line_holds_the_means_since_the_line_before(tiny):
    training = tiny(lr=0.6)
    training.losses, training.spreads = lambda step: [1.0 + step], lambda step: [0.5 + step / 10]
    training.train()
    assert [row["step"] for row in rows()] == [2, 3, 4, 6]  # every second, and where epochs end
    assert [row["loss"] for row in rows()] == [1.5, 3.0, 4.0, 5.5]
    assert [row["spread"] for row in rows()] == pytest.approx([0.55, 0.7, 0.8, 0.95])
    assert [row["epoch"] for row in rows()] == [0.6667, 1.0, 1.3333, 2.0]
    for row in rows():
        assert row.keys() == {"step", "epoch", "loss", "lr", "tau", "images_per_second", "spread"}
        assert row["lr"] == lr_at(row["step"] - 1, 6, 3, 0.6 * 4 / 256)
        assert row["tau"] == tau_at(row["step"] - 1, 6, 0.97)


def test_each_output_has_its_columns_and_the_loss_is_their_weighted_sum(tiny):
    training = tiny(losses="multi", loss_weights=[1.0, 0.5, 0.0])
    training.losses = lambda step: [1.0, 2.0, 4.0]
    training.spreads = lambda step: [0.5, 0.6, 0.7]
    training.train()
    for row in rows():
        assert row["loss"] == 2.0
        assert [row[f"loss_{name}"] for name in training.outputs] == [1.0, 2.0, 4.0]
        spreads = [row[f"spread_{name}"] for name in training.outputs]
        assert spreads == pytest.approx([0.5, 0.6, 0.7])
        assert row["spread"] == row["spread_avgpool"]
    assert training.outputs == ["avgpool", "layer3.0", "layer2.0"]


def test_micro_batches_count_as_the_images_they_are(tiny, clock):
    """Four images a step in two micro-batches, at a step a second."""
    training = tiny(accumulate=2)
    training.start()
    with training.log as log:
        for step in range(4):
            for loss in (1.0, 2.0):
                log.note(torch.tensor([loss]), torch.tensor([0.5]))
            clock.now += 1.0
            log.after_step(step + 1)
        log.flush()
    training.close()
    assert [row["images_per_second"] for row in rows()] == [4.0, 4.0, 4.0]
    assert [row["loss"] for row in rows()] == [1.5, 1.5, 1.5]


def test_saving_does_not_count_as_training(tiny, clock):
    training = tiny()
    training.start()
    with training.log as log:
        log.note(torch.tensor([1.0]), torch.tensor([0.5]))
        clock.now += 2.0
        with log.clock_stopped():
            clock.now += 100.0
        log.note(torch.tensor([1.0]), torch.tensor([0.5]))
        log.after_step(2)
        log.flush()
    training.close()
    assert rows()[0]["images_per_second"] == 8 / 2


def test_a_line_is_read_when_the_next_is_due(tiny):
    """So that a GPU is not waited for; at a checkpoint all lines are there."""
    training = tiny(save_every=600.0, epochs=3)
    training.start()
    seen = []
    with training.run, training.log as log:
        for step in range(6):
            training.step(step)
            log.after_step(step + 1)
            seen.append([row["step"] for row in rows()])
        log.flush()
    training.close()
    assert seen == [[], [], [2], [2, 3], [2, 3], [2, 3, 4]]
    assert [row["step"] for row in rows()] == [2, 3, 4, 6]


# ---- when it gives up


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_state(tiny):
    training = tiny(warmup_epochs=0.0)
    training.losses = lambda step: [1.0 if step < 3 else float("nan")]
    rate = r"learning rate 0\.00047 \(--lr 0\.06\)"  # half of the peak, amid the six steps
    kept = r"the last good state is runs/byol/last\.pt"
    words = rf"^the loss is not finite at step 4, {rate}; {kept}; start anew with a lower --lr$"
    with pytest.raises(UserError, match=words):
        training.train()
    assert checkpoint.load_state(RUN)["step"] == 3
    assert [row["step"] for row in rows()] == [2, 3]


def test_without_a_saved_state_it_says_so(tiny):
    training = tiny()
    training.losses = lambda step: [float("inf")]
    with pytest.raises(UserError, match=r"not finite at step 2, .*; nothing was saved; start anew"):
        training.train()
    assert not list(RUN.glob("*.pt"))


def test_an_infinite_loss_of_no_weight_stops_as_well(tiny):
    training = tiny(losses="multi", loss_weights=[1.0, 1.0, 0.0])
    training.losses = lambda step: [1.0, 2.0, float("inf")]
    with pytest.raises(UserError, match="the loss is not finite at step 2"):
        training.train()


# ---- float16


@pytest.mark.parametrize("optimizer", ["lars", "sgd", "adamw"])
def test_steps_that_float16_skips_are_counted(tiny, optimizer):
    training = tiny(amp=torch.float16, optimizer=optimizer, save_every=600.0)
    training.overflow = {0, 4}
    weights = []
    for step in range(6):
        training.then[step] = lambda: weights.append(training.model.weight.detach().clone())
    training.train()
    counts = [(row["step"], row["skipped_steps"]) for row in rows()]
    assert counts == [(2, 1), (3, 1), (4, 1), (6, 2)]
    assert ", 2 steps skipped as float16 overflowed" in training.log.summary()
    assert torch.equal(weights[3], weights[4])
    assert not torch.equal(weights[2], weights[3])
    assert all(torch.isfinite(each).all() for each in weights)


def test_without_float16_nothing_is_said_of_it(tiny):
    training = tiny().train()
    assert "skipped" not in training.log.summary()
    assert "skipped_steps" not in rows()[0]


def test_float16_that_overflows_for_long_is_an_error(tiny):
    """At 2**16 / 2**16 it may still be well; below it is an error, at the next line."""
    training = tiny(amp=torch.float16, epochs=8)
    training.overflow = set(range(1, 17))
    training.train()
    assert rows()[-1]["skipped_steps"] == 16

    training = tiny(amp=torch.float16, epochs=8, overwrite=True)
    training.overflow = set(range(1, 18))
    words = r"^the gradients overflow float16: 17 steps were skipped, .* at step 18, .*--lr, or wit"
    with pytest.raises(UserError, match=words + r"h --amp bf16 \(off on a card without it\)$"):
        training.train()
    assert checkpoint.load_state(RUN)["step"] == 15


def test_skipped_steps_are_counted_on_after_a_resume(tiny):
    training = tiny(amp=torch.float16, epochs=1)
    training.overflow = {1}
    training.train()
    training = tiny(amp=torch.float16, resume=True, flags={"epochs"})
    training.overflow = {3}
    training.train()
    assert rows()[-1]["skipped_steps"] == 2


# ---- collapse


@pytest.mark.parametrize(("value", "since"), [(0.05, [0]), (0.15, [])])
def test_a_collapse_is_told_once(tiny, capsys, value, since):
    training = tiny(epochs=150, save_every=600.0)
    training.spreads = lambda step: [value]
    training.train()
    told = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(told) == len(since)
    for line, step in zip(told, since, strict=True):
        assert f"since step {step} all projections are nearly the same (spread {value})" in line
        assert "--lr" in line


def test_a_collapse_counts_from_the_last_good_line(tiny, capsys):
    """Two hundred steps of it, of the representation alone, and from where a run goes on."""
    training = tiny(epochs=150, save_every=600.0, losses="multi")
    training.spreads = lambda step: [0.5 if step < 99 or 299 <= step < 302 else 0.05, 0.0, 0.0]
    training.train()
    assert "warning" not in capsys.readouterr().err  # 199 steps, 148 steps
    training = tiny(epochs=250, save_every=600.0, losses="multi", resume=True, flags={"epochs"})
    training.spreads = lambda step: [0.05, 0.9, 0.9]
    training.train()
    (told,) = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert "since step 450 " in told


# ---- what it will take, and took


@pytest.mark.parametrize(
    ("first", "total", "least", "told"),
    [
        (0, 21, 0, "less than a minute"),
        (3, 24, 0, "less than a minute"),
        (0, 20 + 71 * 60, 0, "about 71 minutes"),
        (0, 20 + 70, 60, "about a minute"),
        (0, 20 + 9000, 60, "about 2.5 hours"),
        (0, 20, 0, None),  # it is done by then
        (0, 20 + 59, 60, None),
    ],
)
def test_the_forecast_comes_after_twenty_steps(capsys, clock, first, total, least, told):
    """Steps of a second each, the first five of them slow. Also of a run that goes on."""
    forecast = Forecast(first, total, CPU, least)
    for done in range(first + 1, min(total, first + 40) + 1):
        clock.now += 1.0 if done > first + 5 else 100.0
        forecast.after_step(done)
        said = capsys.readouterr().err
        if told and done == first + 20:
            line = r"forecast    (.*), \d\d:\d\d; so far at most \d+\.\d GiB of memory\n"
            assert re.fullmatch(line, said)[1] == told
        else:
            assert said == ""


def test_a_long_run_is_told_the_day(capsys, clock):
    forecast = Forecast(0, 20 + 24 * 3600, CPU)
    for done in range(1, 21):
        clock.now += 1.0
        forecast.after_step(done)
    tomorrow = datetime.datetime.now() + datetime.timedelta(days=1)
    assert f"about 24.0 hours, {tomorrow:%A}, " in capsys.readouterr().err


def test_both_logs_say_a_forecast(tiny, tmp_path, capsys, clock):
    """A classifier, where it takes more than a minute."""

    def a_second_passes() -> None:
        clock.now += 1.0

    training = tiny(images=4, epochs=30, save_every=600.0)
    training.then = dict.fromkeys(range(30), a_second_passes)
    training.train()
    assert capsys.readouterr().err.count("forecast    less than a minute, ") == 1
    for seconds in (0.1, 10.0):
        run = Classifying(tmp_path, epochs=20)
        run.log.begin(0)
        with run.log:
            for step in range(40):
                clock.now += seconds
                run.step(step, 1.0, 4)
        assert capsys.readouterr().err.count("forecast    about 3 minutes, ") == (seconds > 1)


def test_the_summary_counts_the_steps_of_this_process(tiny, clock):
    def ten_seconds_pass() -> None:
        clock.now += 10.0

    for config in ({"epochs": 1}, {"epochs": 3, "resume": True, "flags": {"epochs"}}):
        training = tiny(**config)
        training.then = dict.fromkeys(range(9), ten_seconds_pass)
        training.train()
    # 24 images in a minute
    assert training.log.summary().startswith("60 seconds, 0 images/s, at most ")
    clock.now -= 59.0
    assert training.log.summary().startswith("1 seconds, 24 images/s, at most ")


# ---- classifiers


class Classifying:
    """The log of a classifier: 8 images, batches of 4, three epochs."""

    def __init__(self, folder: Path, epochs: int = 3, tensorboard: bool = False):
        config = ClassifierConfig(epochs=epochs, batch_size=4, freeze=True, frozen_lr=0.5)
        self.schedule = config.schedule(8)
        self.log = ClassifierLog(folder, self.schedule, config.rate_flag, CPU, tensorboard)

    def step(self, step: int, loss: float, right: int) -> None:
        """A step in which `right` of 4 images get their class."""
        scores = torch.eye(2).repeat(2, 1)  # classes 0 1 0 1
        truth = torch.tensor([0, 1, 0, 1])
        truth[right:] = 1 - truth[right:]
        self.log.note(torch.tensor(loss), scores, truth)
        self.log.after_step(step + 1)


def test_a_classifier_has_a_line_for_each_epoch(tmp_path):
    run = Classifying(tmp_path)
    run.log.begin(0)
    with run.log as log:
        for step, (loss, right) in enumerate([(1.0, 1), (0.5, 2), (0.25, 4), (0.75, 3)]):
            run.step(step, loss, right)
    expected = [
        {"epoch": 1, "loss": 0.75, "accuracy": 3 / 8},
        {"epoch": 2, "loss": 0.5, "accuracy": 7 / 8},
    ]
    assert log.history == expected
    assert read_jsonl(tmp_path / "metrics.partial.jsonl") == expected
    assert not (tmp_path / "metrics.jsonl").exists()  # an earlier result stays until all is done


def test_a_classifier_goes_on_amid_an_epoch(tmp_path):
    first = Classifying(tmp_path)
    first.log.begin(0)
    with first.log as log:
        for step in range(3):
            first.step(step, 1.0 + step, 4)
        log.began -= 60.0
        state = log.state_dict()
    (tmp_path / "metrics.partial.jsonl").write_text("whatever a kill left")
    again = Classifying(tmp_path)
    again.log.load_state_dict(state)
    again.log.begin(3)
    with again.log as log:
        again.step(3, 4.0, 2)
        assert 60 <= log.seconds < 120
    assert read_jsonl(tmp_path / "metrics.partial.jsonl") == [
        {"epoch": 1, "loss": 1.5, "accuracy": 1.0},
        {"epoch": 2, "loss": 3.5, "accuracy": 0.75},
    ]


def test_a_classifier_whose_loss_is_not_finite_names_step_rate_and_flag(tmp_path):
    run = Classifying(tmp_path)
    run.log.begin(0)
    rate = run.schedule.lr(2)
    with run.log:
        for step, loss in enumerate([1.0, 1.0, float("nan")]):
            run.step(step, loss, 4)
        words = f"^the loss is not finite at step 3, where the rate was {rate:g}; try a lower --fro"
        with pytest.raises(UserError, match=words + "zen-lr$"):
            run.step(3, 1.0, 4)
        model = nn.Linear(2, 2)
        run.log.check(model, 2)
        nn.init.constant_(model.weight, float("inf"))
        with pytest.raises(UserError, match=r"^the weights are not finite at step 2, where"):
            run.log.check(model, 2)
    assert len(read_jsonl(tmp_path / "metrics.partial.jsonl")) == 1
