"""The folder of a run: one run in it, never overwritten unasked."""

from __future__ import annotations

import tempfile
from pathlib import Path

from byol.errors import UserError

LAST, PREVIOUS = "last.pt", "previous.pt"  # the state of a run, and the one before


def make_folder(path: str | Path, flag: str) -> Path:
    """Create a folder that can be written to. Raises `UserError` that names `flag` if it cannot."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UserError(
            f"{flag}: the folder {path} cannot be written to ({error.strerror}); choose another"
        ) from None
    return path


def open_run_folder(path: str, *, resume: bool, overwrite: bool) -> Path:
    """The run folder, made if needed.

    Raises `UserError` if it holds a run and neither `resume` nor `overwrite` is asked, if there
    is nothing to resume, or if it cannot be written to.
    """
    state = Path(path) / LAST
    holds_a_run = state.exists() or state.with_name(PREVIOUS).exists()
    if resume and overwrite:
        raise UserError("--resume and --overwrite exclude each other: give one")
    if resume and not holds_a_run:
        raise UserError(f"--resume: there is no {state} to go on from; leave --resume out")
    if holds_a_run and not resume and not overwrite:
        raise UserError(
            f"{path} holds a run already: add --resume to go on with it, --overwrite to start "
            "anew, or choose another --run-dir"
        )
    return make_folder(path, "--run-dir")


def check_same_settings(before: dict, now: dict, may_differ: set[str], run_dir: Path) -> None:
    """Raises `UserError` naming the settings that differ from those a run was started with.

    Those that `may_differ` need not have existed then.
    """
    if unknown := sorted(now.keys() - before.keys() - may_differ):
        raise UserError(
            f"--resume: {run_dir} is of an earlier version, which had no {', '.join(unknown)}; "
            "start anew in another --run-dir"
        )
    changed = [
        f"{key} was {before.get(key)!r} and is now {now[key]!r}"
        for key in now
        if key not in may_differ and before.get(key) != now[key]
    ]
    if changed:
        raise UserError(
            f"--resume: {run_dir} was started with other settings ({'; '.join(changed)}); give "
            "the old ones, or start anew in another --run-dir"
        )
