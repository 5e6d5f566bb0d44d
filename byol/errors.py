"""What a user did can be wrong: one sentence, exit code 2, no traceback."""

from __future__ import annotations

import errno
import functools
import sys
from collections.abc import Callable

import torch

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a full disk, a quota, a limit on files


class UserError(Exception):
    """A fault that the user can mend. Its text is one sentence that says what and how."""


class Stopped(KeyboardInterrupt):
    """A run was stopped by a signal: `code` is its exit code, the text says what to do next."""

    def __init__(self, text: str, code: int):
        super().__init__(text)
        self.code = code


def printable(text: str) -> str:
    """The text with control characters, line breaks and lone surrogates escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def command(main: Callable[[list[str] | None], None]) -> Callable[[list[str] | None], int]:
    """Turn a script's `main` into one that returns an exit code and never a traceback.

    0 done; 2 with one sentence on stderr, for a `UserError`, a full disk, too little memory, or an
    operation that --deterministic cannot have; 130 interrupted, 143 terminated. No control
    character of a name gets to the terminal.
    """

    @functools.wraps(main)
    def run(argv: list[str] | None = None) -> int:
        try:
            main(argv)
        except KeyboardInterrupt as interrupt:
            what = str(interrupt) or "nothing was saved; run the command again"
            print(f"interrupted: {printable(what)}", file=sys.stderr)
            return getattr(interrupt, "code", 130)
        except Exception as error:
            sentence = _sentence(error)
            if sentence is None:
                raise
            print(f"error: {printable(sentence)}", file=sys.stderr)
            return 2
        return 0

    return run


def first_line(error: Exception) -> str:
    """What it says, without the long story that compilers and libraries add."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def gpu_is_full(error: Exception) -> bool:
    """Whether a GPU had too little memory, be it PyTorch that says so or one of its libraries."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    of_libraries = (
        "CUDA error: out of memory",
        "STATUS_ALLOC_FAILED",  # cuBLAS
        "DEVICE_ALLOCATION_FAILED",  # cuDNN
        "unable to find an engine",  # of cuDNN, where no way to convolve has room
    )
    return isinstance(error, RuntimeError) and any(words in str(error) for words in of_libraries)


def _sentence(error: Exception) -> str | None:
    """What to tell the user; None for what is no fault of theirs, and deserves a traceback."""
    text = str(error)
    if isinstance(error, UserError):
        return text
    if gpu_is_full(error):
        return (
            "the GPU has too little memory; end what else uses it, lower --batch-size (with "
            "train_byol.py also --photos-in host, --no-cuda-graph or --accumulate 2), or give "
            "--device cpu"
        )
    if isinstance(error, MemoryError) or "can't allocate memory" in text:
        return (
            "this machine has too little memory; free some, lower --batch-size or --image-size, or "
            "give train_byol.py a higher --accumulate"
        )
    name, refused, _ = text.partition(" does not have a deterministic implementation")
    if refused and torch.are_deterministic_algorithms_enabled():
        return (
            f"--deterministic: {name} has no deterministic version here; leave --deterministic "
            "out, or take --device cpu"
        )
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return (
            f"no room to write {error.filename or 'the output'} ({error.strerror}); free some "
            "space and run the command again, with --resume where a run was saved"
        )
    return None
