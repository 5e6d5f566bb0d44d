"""Errors that the user can mend (one sentence, exit code 2, no traceback), and notes."""

from __future__ import annotations

import difflib
import errno
import sys
from collections.abc import Iterable

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a full disk, a quota, a limit on files


class UserError(Exception):
    """A fault that the user can mend. Its text is one sentence that says what and how."""


class Stopped(KeyboardInterrupt):
    """A signal stopped the run. `code` is the exit code, the text says what to do next."""

    def __init__(self, text: str, code: int):
        super().__init__(text)
        self.code = code


def printable(text: str) -> str:
    """Escape control characters, line breaks and lone surrogates."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def note(text: str) -> None:
    """Say on stderr what is no error and should be known, with --quiet as well."""
    print(f"note        {text}", file=sys.stderr)


def nearest(word: str, words: Iterable[str]) -> str:
    """Suggest the most similar of `words`, as the end of a sentence; nothing if none is similar."""
    near = difflib.get_close_matches(word, list(words), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def first_line(error: Exception) -> str:
    """Give the first line of an error, without the story that compilers and libraries add."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def gpu_is_full(error: Exception) -> bool:
    """Tell whether a GPU had too little memory. PyTorch or one of its libraries may say so."""
    import torch  # not above: packing photos needs no torch, which takes seconds to import

    if isinstance(error, torch.OutOfMemoryError):
        return True
    of_libraries = (
        "CUDA error: out of memory",
        "STATUS_ALLOC_FAILED",  # cuBLAS
        "DEVICE_ALLOCATION_FAILED",  # cuDNN
        "unable to find an engine",  # of cuDNN, if no way to convolve has room
        "MPS backend out of memory",
    )
    return isinstance(error, RuntimeError) and any(words in str(error) for words in of_libraries)
