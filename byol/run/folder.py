"""The folder of a run: it holds one run, and is never overwritten unasked."""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path
from typing import TextIO

from byol.errors import UserError
from byol.files import naming, same_photos

LAST, PREVIOUS = "last.pt", "previous.pt"  # the state of a run, and the one before


def make_folder(path: str | Path, flag: str) -> Path:
    """Create a folder that can be written to. Raises `UserError` that names `flag`."""
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


def lock_run_folder(run_dir: Path, flag: str = "--run-dir") -> TextIO:
    """Lock the file run.lock, which holds our process id; closing it, or dying, unlocks.

    Raises `UserError` with the id of the process that has the folder, if there is one.
    """
    lock = open(run_dir / "run.lock", "a+")  # noqa: SIM115  (it outlives this function)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        pid = lock.read().strip()
        lock.close()
        raise UserError(
            f"{run_dir} is in use by process {pid}: wait for it, stop it, or choose another {flag}"
        ) from None
    except OSError:  # a file system without locks
        pass
    with naming(run_dir / "run.lock"):
        lock.truncate(0)
        os.write(lock.fileno(), f"{os.getpid()}\n".encode())
    return lock


def open_run_folder(path: str, *, resume: bool, overwrite: bool) -> tuple[Path, TextIO]:
    """Make the run folder if needed, and lock it until the lock is closed.

    What a killed run left half-written there is removed. Raises `UserError` if another process
    has the folder, if it holds a run and neither `resume` nor `overwrite` is asked, or if it cannot
    be written to.
    """
    run_dir = Path(path)
    make_folder(run_dir, "--run-dir")
    lock = lock_run_folder(run_dir)
    if holds_a_run(run_dir) and not resume and not overwrite:
        raise UserError(
            f"{run_dir} holds a run already: add --resume to go on with it, --overwrite to start "
            "anew, or choose another --run-dir"
        )
    clear_half_written(run_dir)
    return run_dir, lock


def clear_half_written(folder: Path) -> None:
    """Remove what a killed process left in a folder that is locked."""
    for path in folder.glob(".*.tmp"):
        path.unlink()


def holds_a_run(run_dir: Path) -> bool:
    """Tell whether there is a state of training to go on from."""
    return (run_dir / LAST).is_file() or (run_dir / PREVIOUS).is_file()


def remove_states(run_dir: Path) -> None:
    """Remove the states of training, the older first: the newer is left at any instant."""
    for name in (PREVIOUS, LAST):
        (run_dir / name).unlink(missing_ok=True)


def know_photos_again(before: dict, now: dict) -> dict:
    """Give settings that hold an earlier version's fingerprint of the photos that of today."""
    if "images" in now and same_photos(str(before.get("images")), now["images"]):
        return {**before, "images": now["images"]}
    return before


def check_same_settings(
    before: dict, now: dict, may_differ: set[str], may_change: set[str], run_dir: Path
) -> None:
    """Raise `UserError` that names the settings which differ from those of the run's start.

    Settings in `may_differ` are not compared; those in `may_change` may be others now.
    """
    before = know_photos_again(before, now)
    if unknown := sorted(now.keys() - before.keys() - may_differ):
        raise UserError(
            f"--resume: {run_dir} is of an earlier version, which had no {', '.join(unknown)}; "
            "start anew in another --run-dir"
        )
    changed = [
        f"other {key}"
        if key in ("images", "weights")
        else f"{key} was {before.get(key)!r} and is now {now[key]!r}"
        for key in now
        if key not in may_differ | may_change and before.get(key) != now[key]
    ]
    if changed:
        others = sorted(may_differ - {"resume", "overwrite"})
        flags = ["--" + key.replace("_", "-") for key in others]
        raise UserError(
            f"--resume: {run_dir} was started with other settings ({'; '.join(changed)}); give "
            f"the old ones, or start anew in another --run-dir; only {', '.join(flags)} may "
            "differ, and --epochs of train_byol.py, if you give it"
        )
