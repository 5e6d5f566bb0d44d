"""A run: its folder, its lock, its last state, its signals, when to save and when to stop."""

from __future__ import annotations

import dataclasses
import math
import secrets
import sys
import time
from pathlib import Path

from byol.config import MAY_DIFFER_ON_RESUME, PretrainConfig
from byol.errors import Stopped, UserError, printable
from byol.hardware.distributed import highest, meet, take_over
from byol.progress import say
from byol.run import checkpoint
from byol.run.about import About
from byol.run.events import remove_events
from byol.run.folder import (
    LAST,
    check_same_settings,
    holds_a_run,
    open_run_folder,
    remove_states,
)
from byol.run.interrupt import Interrupt
from byol.schedules import Schedule


class Run:
    """A run that a kill at any moment does not harm: it goes on to the identical result.

    Open it, `start` it with everything that must survive a stop, then work inside `with run:` and
    call `after_step` after each step.
    """

    saves_at_end = True  # a finished run keeps its last state, and can be made longer
    about_name = "about.json"

    def __init__(self, folder: str | Path, settings: dict, config):
        """Make the folder and lock it. config: `resume`, `overwrite`, `save_every`, `save_within`.

        Raises `UserError` if the folder cannot be used as asked (see `open_run_folder`).
        """
        self.settings, self.overwrite, self.resume = settings, config.overwrite, config.resume
        self.save_every = config.save_every  # seconds at least, at the end of an epoch
        self.save_within = getattr(config, "save_within", config.save_every)  # at most
        self.folder, self._lock = open_run_folder(
            folder, resume=config.resume, overwrite=config.overwrite
        )
        self.state: dict | None = None
        self.about: About | None = None
        self.fingerprint = self.learned = ""
        self.name = secrets.token_hex(4)  # says later which run wrote a file

    @classmethod
    def open(cls, config: PretrainConfig, flags: set[str], start: dict | None = None) -> Run:
        """Open the run of `train_byol.py`; with `--resume` read its last state.

        start: the checkpoint that the encoder begins with; None is for random weights.

        Without a state there, `--resume` begins anew. Raises `UserError` if the folder holds
        another run, if the state cannot be read or has other settings, or if the encoder could not
        be written in the end.
        """
        weights = {"weights": checkpoint.start_fingerprint(start)}
        run = cls(config.run_dir, dataclasses.asdict(config) | weights, config)
        checkpoint.check_writable(config.out)
        if config.resume and holds_a_run(run.folder):
            # a default or a file that changed does not change the length of a run
            run.load_state(MAY_DIFFER_ON_RESUME, may_change={"epochs"} & flags)
        elif config.resume:
            run.say(f"note        nothing to resume in {printable(str(run.folder))}: a new run")
        run.check_out(Path(config.out))
        return run

    def load_state(self, may_differ: set[str], may_change: set[str]) -> None:
        """Read the last state. Raises `UserError` if it is of other settings."""
        self.state = checkpoint.load_state(self.folder)
        before = self.state["config"]
        check_same_settings(before, self.settings, may_differ, may_change, self.folder)
        self.name = self.state.get("run", self.name)

    def check_out(self, out: Path) -> None:
        """Raise `UserError` if the encoder of another run is at `out`, and may not be replaced."""
        self.replaceable = None
        if not out.exists():
            return
        writer = checkpoint.written_by(out)
        if self.overwrite:
            self.replaceable = writer  # what is there now; not what another run puts there later
        elif writer != self.name:
            raise UserError(
                f"--out: {printable(str(out))} is there already, and is not of this run; give "
                "another --out for this run's encoder, or (without --resume) --overwrite to "
                "replace it"
            )

    def free_out(self, out: str) -> str:
        """Give the name for the encoder: `out`, or another name if another run wrote `out` since.

        So nothing is lost, and the user is told.
        """
        path = Path(out)
        if not path.exists() or checkpoint.written_by(path) in (self.name, self.replaceable):
            return out
        other = str(path.with_name(f"{path.stem}-{self.name}{path.suffix}"))
        print(
            f"note        another run has written {printable(out)} meanwhile, so this encoder goes "
            f"to {printable(other)}",
            file=sys.stderr,
        )
        return other

    def check_same_photos(self, photos) -> None:
        """Raise `UserError` if the run was started with other photos."""
        self.fingerprint = photos.fingerprint
        if self.state and not photos.is_known_as(self.state["data_fingerprint"]):
            raise UserError(
                f"--resume: {self.folder} was started with other images than --data "
                f"{photos.source} now has; put the old ones back, or start anew in another "
                "--run-dir"
            )

    def check_same_split(self, split) -> None:
        """Raise `UserError` if the run learned from other photos of these.

        Labels in a file may have changed. Earlier versions left the labelled ones out of all.
        """
        self.learned = split.digest_learned()
        if not self.state:
            return
        of_earlier = self.state.get("learned") is None
        if of_earlier and split.all_labels and len(split.labelled):
            raise UserError(
                f"--resume: {self.folder} is of an earlier version, which with --labels all did "
                "not learn from the labelled images; start anew in another --run-dir"
            )
        if not of_earlier and self.state["learned"] != self.learned:
            raise UserError(
                f"--resume: {self.folder} was started with other labels, and learned from other "
                "images; put the old labels back, or start anew in another --run-dir"
            )

    def start(self, schedule: Schedule, *, log, model, **others) -> int:
        """Restore everything from the last state, or begin anew: the first step to take.

        `log`, `model` and `others` (optimizer, scaler) have `state_dict` and `load_state_dict`.
        They are what a checkpoint holds.
        """
        self.schedule, self.log, self.model = schedule, log, model
        self.parts = {"model": model, **others, "log": log}
        first_step = 0
        if self.state:
            first_step = self.state["step"]
            self._check_length(first_step)
            for name, part in self.parts.items():
                part.load_state_dict(self.state[name])
            self._tell_of_other_schedule()
        else:  # every check is behind us: only now may --overwrite cost the earlier run
            remove_states(self.folder)
            remove_events(self.folder)
        going_on = f", going on at step {first_step:,}" if self.state else ""
        self.say(f"run folder  {printable(str(self.folder))}{going_on}")
        self.state = None  # its memory is free again
        log.begin(first_step)
        return take_over(first_step, {"model": model, **others})

    def _check_length(self, done: int) -> None:
        """Raise `UserError` if more steps are done than the schedule has."""
        if done > self.schedule.total_steps:
            epochs = math.ceil(done / self.schedule.steps_per_epoch)
            raise UserError(
                f"--epochs {self.schedule.epochs}: the run has done {done:,} steps, more than "
                f"these epochs have; give --epochs {epochs} or more"
            )

    def _tell_of_other_schedule(self) -> None:
        before, now = self.state["config"]["epochs"], self.settings["epochs"]
        if now != before:
            self.say(
                f"note        --epochs was {before} and is now {now}: from here on rate and tau "
                "follow the other schedule, so the result is not that of a run of "
                f"{now} epochs from the start"
            )

    def say(self, text: str) -> None:
        say(text)

    def begin_about(self, photos, split, device: str) -> None:
        """Begin to write down what makes the run: the command, the machine, these photos, times."""
        path = self.folder / self.about_name
        self.about = About(path, self.known_as(), self.resume, photos, split, device)

    def known_as(self) -> str:
        """Name the run, in the same way if it goes on."""
        return self.name

    def __enter__(self) -> Run:
        self.interrupt = Interrupt()
        self.interrupt.__enter__()
        self.saved_at = time.perf_counter()
        return self

    def __exit__(self, *error) -> None:
        self.interrupt.__exit__(*error)

    def after_step(self, done: int) -> None:
        """Save if it is due after `done` steps. Raises `Stopped` if a signal asked for it.

        Of several processes all save and stop after the same step, if one of them wants it.
        """
        at_end = done == self.schedule.total_steps
        unsaved = time.perf_counter() - self.saved_at  # seconds
        due = unsaved >= self.save_within
        due |= self.schedule.ends_epoch(done) and unsaved >= self.save_every
        due, stopping, code = highest(due, self.interrupt.asked, self.interrupt.code)
        if due or stopping or (at_end and self.saves_at_end):
            self.save(done)
        if stopping and not (at_end and self.saves_at_end):
            meet()  # nobody ends before it is saved
            how = "--resume in place of --overwrite" if self.overwrite else "--resume"
            raise Stopped(
                f"saved at step {done:,} in {self.folder / LAST}; the same command with {how} "
                "goes on",
                code,
            )

    def save(self, done: int) -> None:
        """Write the state after `done` steps. Raises `UserError` if a weight is not finite."""
        with self.log.clock_stopped():
            self.log.flush()
            self.log.check(self.model, done)
            content = {name: part.state_dict() for name, part in self.parts.items()}
            content |= {"step": done, "config": self.settings, "run": self.name}
            content |= {"learned": self.learned} if self.learned else {}
            checkpoint.save_state(self.folder, {**content, "data_fingerprint": self.fingerprint})
            if self.about:
                self.about.write()
        self.saved_at = time.perf_counter()
