"""The folder in which a pack is made, and what packings that were stopped left behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from byol.errors import UserError, note, printable
from data.cache import TEMPORARY, command_to_remove
from data.shards import Shards, keep_whole_shards, read_whole_shards

STALE_S = 24 * 3600
KEPT_S = 7 * STALE_S  # if whole shards are in it


@contextlib.contextmanager
def temporary_folder(cache: Path) -> Iterator[Path]:
    """Make a folder to pack in, locked, and remove what killed packings left long ago.

    At the end it is removed. If an error ends it, then its whole shards stay for the next packing.
    Raises `UserError` if it cannot be made.
    """
    temporary = cache / f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _remove_stale(cache)
        temporary.mkdir()
        lock = os.open(temporary, os.O_RDONLY)
    except OSError as error:
        raise UserError(
            f"cannot write to the cache folder {printable(str(cache))} ({error.strerror}); "
            "set BYOL_CACHE to a folder that you can write to"
        ) from None
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)  # nobody holds it for long before there are shards
        yield temporary
        shutil.rmtree(temporary, ignore_errors=True)  # nothing to do after a good rename
    except BaseException:
        kept = 0
        with contextlib.suppress(OSError):
            kept = keep_whole_shards(temporary)
        if kept:
            note(
                f"what is packed so far stays in {printable(str(temporary))}, and the same "
                f"command goes on from there; to remove it: {command_to_remove([temporary])}"
            )
        else:
            shutil.rmtree(temporary, ignore_errors=True)
        raise
    finally:
        os.close(lock)


class Leftover:
    """The whole shards of a packing that was stopped. No other process takes them meanwhile.

    images: `Shards`; digests: uint8 (N, 32); stamps: uint8 (N, 16); sizes: int32 (N, 2)
    """

    def __init__(self, folder: Path, lock: int, images: Shards, *columns: np.ndarray):
        self.folder, self.images = folder, images
        self.digests, self.stamps, self.sizes = columns
        weakref.finalize(self, os.close, lock)


def find_leftovers(cache: Path, shape: tuple[int, int], version: int, kind: str) -> list[Leftover]:
    """Find what packings of this stored shape and kind left whose process is gone."""
    found = []
    for folder in sorted(cache.glob(TEMPORARY + "*")):
        try:
            lock = _lock(folder)
        except OSError:  # its process lives, or locks do not work here
            continue
        whole = read_whole_shards(folder, shape, version, kind)
        if whole is None:
            os.close(lock)
        else:
            found.append(Leftover(folder, lock, *whole))
    return found


def _lock(folder: Path) -> int:
    """Lock a folder, and give what is to be closed.

    Raises `BlockingIOError` if the process that made it lives, and another `OSError` if it is gone
    or if locks do not work here.
    """
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise
    return lock


def _remove_stale(cache: Path) -> None:
    """Remove what packings that were killed left behind a day ago, or a week with whole shards."""
    for folder in cache.glob(TEMPORARY + "*"):
        try:
            age = time.time() - folder.stat().st_mtime
        except OSError:  # its owner has just removed it
            continue
        old = age > (KEPT_S if any(folder.glob("shard-*")) else STALE_S)
        if old and not _is_at_work(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _is_at_work(folder: Path) -> bool:
    """Tell whether a process holds the lock of a folder; False if locks do not work here."""
    try:
        os.close(_lock(folder))
    except OSError as error:
        return isinstance(error, BlockingIOError)
    return False
