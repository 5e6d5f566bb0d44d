"""A run: it begins or goes on, saves when it is due, stops when it is asked, costs nothing unasked.

Here around a linear layer; tests/scripts has the same with whole trainings.
"""

import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from torch import nn

from byol.errors import Stopped, UserError
from byol.run import checkpoint
from byol.run.metrics import read_jsonl

RUN = Path("runs/byol")


def signals(*numbers: int):
    """A function that sends signals to this process."""

    def send() -> None:
        for number in numbers:
            os.kill(os.getpid(), number)

    return send


def states() -> list[str]:
    return sorted(path.name for path in RUN.glob("*.pt"))


def numbers(training) -> list[torch.Tensor]:
    """All that training has changed: weights, momentum, scale and skipped steps."""
    momentum = [state["momentum_buffer"] for state in training.optimizer.state.values()]
    return [*training.model.state_dict().values(), *momentum, training.scaler.numbers()]


def rows() -> list[dict]:
    """The lines of the metrics, but for the speed."""
    return [
        {key: value for key, value in row.items() if key != "images_per_second"}
        for row in read_jsonl(RUN / "metrics.jsonl")
    ]


# ---- when it saves


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [3, 6]),  # each epoch
        ({"save_every": 600.0}, [6]),  # the end
        ({"save_every": 600.0, "save_within": 0.0}, [1, 2, 3, 4, 5, 6]),  # amid epochs
    ],
)
def test_checkpoints_come_no_more_often_than_asked(tiny, settings, expected):
    training, saved = tiny(**settings), []
    save = training.run.save
    training.run.save = lambda done: saved.append(done) or save(done)
    training.train()
    assert saved == expected
    assert checkpoint.load_state(RUN)["step"] == 6


def test_the_time_since_the_last_checkpoint_counts(tiny):
    training, saved = tiny(save_every=100.0, epochs=3), []
    save = training.run.save
    training.run.save = lambda done: saved.append(done) or save(done)

    def hours_pass() -> None:
        training.run.saved_at -= 200.0

    training.then[1] = hours_pass
    training.train()
    assert saved == [3, 9]  # not at 6: it was saved just before


# ---- how it stops


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_signal_saves_and_says_how_to_go_on(tiny, number, code, overwrite):
    training = tiny(overwrite=overwrite, save_every=600.0)
    training.then[3] = signals(number)
    before = signal.getsignal(number)
    how = "--resume in place of --overwrite goes on" if overwrite else "with --resume goes on"
    with pytest.raises(Stopped, match=rf"^saved at step 4 in runs/byol/last\.pt; .*{how}") as end:
        training.train()
    assert end.value.code == code
    assert checkpoint.load_state(RUN)["step"] == 4
    assert signal.getsignal(number) is before
    assert rows()[-1]["step"] == 4  # also the line that would have been read later


def test_a_second_signal_stops_at_once_and_keeps_what_is_saved(tiny):
    training = tiny()
    training.then[3] = signals(signal.SIGINT, signal.SIGINT)
    with pytest.raises(Stopped, match="stopped at once"):
        training.train()
    assert checkpoint.load_state(RUN)["step"] == 3


def test_a_signal_in_the_last_step_lets_the_run_finish(tiny):
    training = tiny()
    training.then[5] = signals(signal.SIGTERM)
    training.train()
    assert checkpoint.load_state(RUN)["step"] == 6


def test_a_run_with_work_after_its_last_step_stops_there(tiny):
    """A classifier is tested after its last step, and keeps no state when it is finished."""
    training = tiny(save_every=600.0)
    training.run.saves_at_end = False
    training.then[5] = signals(signal.SIGTERM)
    with pytest.raises(Stopped, match="saved at step 6 "):
        training.train()
    assert checkpoint.load_state(RUN)["step"] == 6
    again = tiny(save_every=600.0, overwrite=True)
    again.run.saves_at_end = False
    again.train()
    assert states() == []


# ---- how it goes on


@pytest.mark.parametrize("amp", [None, torch.float16])
@pytest.mark.parametrize("stopped", [1, 2, 3, 4, 5])
def test_resume_gives_the_result_of_an_unbroken_run(tiny, capsys, amp, stopped):
    """Stopped at each step: before the first line, at a line amid an epoch, between two lines."""

    def training(**how):
        made = tiny(amp=amp, **how)
        made.overflow = {1, 4} if amp else set()
        return made

    whole = training(run_dir="whole", out="whole.pt").train()
    part = training(save_every=600.0)
    part.then[stopped - 1] = signals(signal.SIGTERM)
    with pytest.raises(Stopped):
        part.train()
    capsys.readouterr()
    part = training(resume=True).train()
    assert f"run folder  runs/byol, going on at step {stopped}\n" in capsys.readouterr().err
    for one, other in zip(numbers(whole), numbers(part), strict=True):
        assert torch.equal(one, other)
    unbroken = read_jsonl("whole/metrics.jsonl")
    assert [row["step"] for row in unbroken] == [2, 3, 4, 6]
    for row in unbroken:
        assert row.pop("images_per_second") > 0
    assert rows() == unbroken


def test_a_damaged_state_costs_what_came_after_the_one_before(tiny, capsys):
    training = tiny()
    training.then[4] = signals(signal.SIGTERM)
    with pytest.raises(Stopped):
        training.train()
    shutil.copy(RUN / "last.pt", RUN / "previous.pt")
    (RUN / "last.pt").write_bytes((RUN / "previous.pt").read_bytes()[:-1])
    capsys.readouterr()
    tiny(resume=True).train()
    warnings = [line for line in capsys.readouterr().err.splitlines() if "previous.pt" in line]
    assert warnings == ["runs/byol/last.pt is damaged: going on from runs/byol/previous.pt, step 5"]
    assert states() == ["last.pt"]


def test_a_run_is_lengthened_by_the_flag_alone(tiny, capsys):
    """A higher number in a file, or a higher default, does not lengthen a run unasked."""
    tiny().train()
    earlier = rows()
    with pytest.raises(UserError, match=r"\(epochs was 2 and is now 4\)"):
        tiny(resume=True, epochs=4)
    capsys.readouterr()
    longer = tiny(resume=True, epochs=4, flags={"epochs"}).train()
    (note,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("note"))
    assert "--epochs was 2 and is now 4" in note
    assert rows()[: len(earlier)] == earlier
    assert [row["step"] for row in rows()] == [2, 3, 4, 6, 8, 9, 10, 12]
    assert [row["lr"] for row in rows()[4:]] == [longer.schedule.lr(s) for s in (7, 8, 9, 11)]
    tiny(resume=True, epochs=4, flags={"epochs"}).train()  # as any run
    assert "note" not in capsys.readouterr().err
    with pytest.raises(UserError, match=r"has done 12 steps.*give --epochs 4 or more"):
        tiny(resume=True, epochs=3, flags={"epochs"}).train()
    assert checkpoint.load_state(RUN)["config"]["epochs"] == 4


def test_other_settings_are_refused_and_those_of_the_machine_are_not(tiny):
    tiny().train()
    with pytest.raises(
        UserError, match=r"tau0 was 0.97 and is now 0.9; batch_size was 4 and is now 6"
    ):
        tiny(resume=True, batch_size=6, tau0=0.9)
    with pytest.raises(UserError, match="losses was 'classic' and is now 'multi'"):
        tiny(resume=True, losses="multi")
    other = tiny(resume=True, device="cpu", amp="off", log_every=1, save_within=1.0, out="x.pt")
    assert other.start() == 6
    other.close()


def test_other_images_are_refused(tiny):
    tiny().train()
    other = tiny(resume=True, fingerprint="1")
    with pytest.raises(UserError, match="was started with other images than --data photos now has"):
        other.start()
    other.close()
    assert checkpoint.load_state(RUN)["step"] == 6


# ---- what it may cost


def test_the_earlier_run_is_lost_at_the_start_alone(tiny):
    """`--overwrite` costs nothing until every check has passed."""
    tiny().train()
    earlier = (RUN / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"runs/byol holds a run already: add --resume .*--overwr"):
        tiny()
    new = tiny(overwrite=True)
    new.run.check_same_photos(new.photos)
    assert states() == ["last.pt"]
    assert (RUN / "metrics.jsonl").read_bytes() == earlier
    assert new.start() == 0
    assert states() == []
    assert (RUN / "metrics.jsonl").read_bytes() == b""
    new.close()


def test_a_folder_in_use_is_refused(tiny):
    first = tiny()
    for how in ({}, {"overwrite": True}):
        with pytest.raises(UserError, match="is in use by process"):
            tiny(**how)
    first.train()


def test_an_encoder_is_not_replaced_unasked(tiny):
    Path("byol.pt").write_bytes(b"another run's")
    with pytest.raises(UserError, match=r"byol\.pt is there already.*another --out.*--overwrite"):
        tiny()
    tiny(out="mine.pt").train()
    tiny(out="mine.pt", resume=True).train()
    tiny(overwrite=True).train()
    with pytest.raises(UserError, match="is a folder"):
        tiny(out=".", overwrite=True)
    assert Path("byol.pt").read_bytes() == b"another run's"


def test_weights_that_are_not_finite_are_not_saved(tiny):
    """Here no loss has shown it yet."""
    training = tiny(epochs=3)
    training.losses = lambda step: [1.0]
    training.then[4] = lambda: nn.init.constant_(training.model.bias, float("nan"))
    words = r"^the weights are not finite at step 6, .*the last good state is runs/byol/last\.pt;"
    with pytest.raises(UserError, match=words):
        training.train()
    state = checkpoint.load_state(RUN)
    assert state["step"] == 3
    assert all(torch.isfinite(value).all() for value in state["model"].values())


def test_a_state_that_cannot_be_written_leaves_the_one_before(tiny, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    training = tiny()
    training.then[5] = lambda: monkeypatch.setattr(checkpoint, "write_atomically", full)
    with pytest.raises(OSError, match="No space left"):
        training.train()
    assert checkpoint.load_state(RUN)["step"] == 3
    assert tiny(resume=True).start() == 3
