"""Fetch one file over HTTP, resumable and checked."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path

from tqdm import tqdm

from byol.errors import UserError

TIMEOUT_S = 30
CHUNK_BYTES = 1 << 20


def download(url: str, sha256: str, target: Path, progress: bool = True) -> Path:
    """Fetch `url` to `target` and check its SHA-256 (hex). Returns `target`.

    The bytes go to `<target>.part` first, and a later call goes on where an earlier one broke
    off. Raises `UserError` if the transfer or the check fails, or another process is at it.
    """
    target = Path(target)
    part = target.with_name(target.name + ".part")
    by_hand = f"put the file by hand at {target.resolve()}, or try --data cartoons"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.parent):
            return _fetch_checked(url, sha256, part, target, progress, by_hand)
    except urllib.error.HTTPError as error:
        raise UserError(f"{url} answered {error.code} {error.reason}; {by_hand}") from None
    except urllib.error.URLError as error:
        raise UserError(f"cannot reach {url} ({error.reason}); {by_hand}") from None
    except (HTTPException, TimeoutError, ConnectionError, ssl.SSLError) as error:
        reason = str(error) or type(error).__name__
        raise UserError(
            f"the transfer of {target.name} broke off ({reason}); run again to go on"
        ) from None
    except OSError as error:
        raise UserError(
            f"cannot write {part} ({error.strerror}); make room or make the folder writable"
        ) from None


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One download into a folder at a time; the lock goes when its process does."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process downloads into {folder}: wait until it is done, then run again"
            ) from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(handle)


def _fetch_checked(
    url: str, sha256: str, part: Path, target: Path, progress: bool, by_hand: str
) -> Path:
    _fetch(url, part, progress)
    with open(part, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != sha256:
        part.unlink()
        raise UserError(
            f"what came from {url} is not the expected file (SHA-256 {digest[:12]}..., not "
            f"{sha256[:12]}...) and was removed; run again, or {by_hand}"
        )
    os.replace(part, target)
    return target


def _fetch(url: str, part: Path, progress: bool) -> None:
    """Complete `part`, by a range request if some of it is there already."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url)
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        if error.headers.get("Content-Range") == f"bytes */{have}":
            return  # all of it was there
        part.unlink()
        return _fetch(url, part, progress)
    with response:
        resumed = response.status == 206 and (
            response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        )
        if not resumed:
            if response.status == 206:  # another range than asked for
                part.unlink()
                return _fetch(url, part, progress)
            have = 0  # the server knows no ranges
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        with (
            open(part, "ab" if resumed else "wb") as file,
            tqdm(
                total=total,
                initial=have,
                desc=part.stem,
                unit="B",
                unit_scale=True,
                disable=not progress,
                mininterval=0.1 if sys.stderr.isatty() else 10,
            ) as bar,
        ):
            while chunk := response.read(CHUNK_BYTES):
                file.write(chunk)
                bar.update(len(chunk))
            file.flush()
            os.fsync(file.fileno())
            if total is not None and file.tell() < total:
                raise HTTPException(f"{file.tell():,} of {total:,} bytes came")
