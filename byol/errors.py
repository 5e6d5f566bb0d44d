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

    0 done; 2 a `UserError`, a full disk or too little memory, with one sentence on stderr; 130
    interrupted, 143 terminated. No control character of a name gets to the terminal.
    """

    @functools.wraps(main)
    def run(argv: list[str] | None = None) -> int:
        try:
            main(argv)
        except UserError as error:
            print(f"error: {printable(str(error))}", file=sys.stderr)
            return 2
        except KeyboardInterrupt as interrupt:
            print(
                "interrupted: "
                + printable(str(interrupt) or "nothing was saved; run the command again"),
                file=sys.stderr,
            )
            return getattr(interrupt, "code", 130)
        except torch.OutOfMemoryError:
            print(
                "error: the GPU has too little memory; give train_byol.py --photos-in host or "
                "--accumulate 2, or lower --batch-size or --image-size",
                file=sys.stderr,
            )
            return 2
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            what = printable(str(error.filename or "the output"))
            print(
                f"error: no room to write {what} ({error.strerror}); free some space and run the "
                "command again, with --resume where a run was saved",
                file=sys.stderr,
            )
            return 2
        except MemoryError:
            print(
                "error: this machine has too little memory; free some and run the command again",
                file=sys.stderr,
            )
            return 2
        return 0

    return run
