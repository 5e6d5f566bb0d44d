"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_SEAL = b"\nbyol: CRC-32 of what is before this line: "  # and eight hexadecimal digits
_CHUNK = 2**20
CGROUP = Path("/sys/fs/cgroup")


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Make an `OSError` that is raised inside name `path`: that of a write has no name."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def write_file(path: Path, blob: bytes | memoryview) -> None:
    """Write a file and flush it to the disk. Raises `OSError` that names it."""
    with naming(path), open(path, "wb") as file:
        file.write(blob)
        file.flush()
        os.fsync(file.fileno())


def write_atomically(path: str | Path, blob: bytes | memoryview, keep: Path | None = None) -> None:
    """Write a file whole or not at all, as `writing` does. Raises `OSError` that names `path`."""
    with naming(Path(path)), writing(path, keep) as file:
        file.write(blob)


@contextlib.contextmanager
def writing(path: str | Path, keep: Path | None = None) -> Iterator[BinaryIO]:
    """Open a file under a temporary name in the same folder; at the end flush it and rename it.

    At any instant `path` is the old file or the new one, also after a loss of power. With `keep`
    the old file moves there first; stopped between the two, there is only `keep`. If an error ends
    it, `path` stays as it was. What a killed process left of an earlier write is removed. Raises
    `OSError` that names `path`.
    """
    path = Path(path)
    temporary = temporary_of(path)
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_half_written(path)
        file = open(temporary, "wb")  # noqa: SIM115  (closed below)
    try:
        with file:
            yield file
            with naming(path):
                file.flush()
                os.fsync(file.fileno())
        with naming(path):
            if keep and path.exists():
                os.replace(path, keep)
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _flush_folder(path.parent)


def temporary_of(path: Path) -> Path:
    """Name the file that becomes `path` once it is whole, if this process writes it."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def remove_half_written(path: Path) -> None:
    """Remove the temporary files of writes of `path` whose process is dead."""
    name = re.compile(re.escape(f".{path.name}.") + "([1-9][0-9]*)" + re.escape(".tmp"))
    for file in os.listdir(path.parent):
        match = name.fullmatch(file)
        if match and not _lives(int(match[1])):
            (path.parent / file).unlink(missing_ok=True)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # sends nothing
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's; or no process id at all
        return True
    return True


def _flush_folder(folder: Path) -> None:
    """Flush the names in `folder` to the disk, if the file system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def usable_cores() -> int:
    """Count the cores that this process may use: by its affinity, and by a limit of its cgroup."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    for name, read in (("cpu.max", str.split), ("cpu/cpu.cfs_quota_us", _cgroup1_quota)):
        with contextlib.suppress(OSError, ValueError, IndexError):
            quota, period = read((CGROUP / name).read_text())[:2]
            if quota not in ("max", "-1"):
                cores = min(cores, math.ceil(int(quota) / int(period)))
    return max(1, cores or 1)


def _cgroup1_quota(quota: str) -> list[str]:
    return [quota.strip(), (CGROUP / "cpu/cpu.cfs_period_us").read_text()]


def same_photos(fingerprint: str, other: str) -> bool:
    """Tell whether two fingerprints are of the same photos: "NAMES-CONTENT", two digests each.

    Those of earlier versions are of the names alone.
    """
    if "-" in fingerprint and "-" in other:
        return fingerprint == other
    return same_names(fingerprint, other)


def same_names(fingerprint: str, other: str) -> bool:
    """Tell whether two fingerprints are of photos of the same names."""
    return fingerprint.partition("-")[0] == other.partition("-")[0]


def write_json(path: str | Path, content: dict) -> None:
    """Write a JSON file whole or not at all."""
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def seal(blob: bytes | memoryview) -> bytes:
    """Make what to append to `blob` so that `check_seal` finds damage. A zip may end with it.

    CRC-32 is against accidents, which it finds for certain in up to four bytes in a row; SHA-256
    would add 40 % to the time of a save.
    """
    return _SEAL + b"%08x" % zlib.crc32(blob)


def check_seal(path: Path) -> bool | None:
    """Tell whether a file is as it was sealed; None if it has no seal. Raises `OSError`."""
    checksum = 0
    with open(path, "rb") as file:
        length = file.seek(0, os.SEEK_END) - len(_SEAL) - 8
        if length < 0:
            return None
        file.seek(length)
        mark, expected = file.read(len(_SEAL)), file.read()
        if mark != _SEAL:
            return None
        file.seek(0)
        for at in range(0, length, _CHUNK):
            checksum = zlib.crc32(file.read(min(_CHUNK, length - at)), checksum)
    return b"%08x" % checksum == expected


def reads_back(path: Path, blob: memoryview) -> bool:
    """Tell whether a file holds `blob`. Raises `OSError`."""
    with open(path, "rb") as file:
        for at in range(0, len(blob), _CHUNK):
            if file.read(_CHUNK) != bytes(blob[at : at + _CHUNK]):
                return False
        return not file.read(1)
