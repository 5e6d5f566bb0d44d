"""What a user did can be wrong: one sentence, exit code 2, no traceback."""

from __future__ import annotations

import errno
import functools
import sys
from collections.abc import Callable

import torch


class UserError(Exception):
    """A fault that the user can mend. Its text is one sentence that says what and how."""


class Stopped(KeyboardInterrupt):
    """A run was stopped by a signal: `code` is its exit code, the text says what to do next."""

    def __init__(self, text: str, code: int):
        super().__init__(text)
        self.code = code


def command(main: Callable[[list[str] | None], None]) -> Callable[[list[str] | None], int]:
    """Turn a script's `main` into one that returns an exit code and never a traceback.

    0 done; 2 a `UserError`, a full disk, too little memory, or an operation that --deterministic
    cannot have, with one sentence on stderr; 130 interrupted, 143 terminated.
    """

    @functools.wraps(main)
    def run(argv: list[str] | None = None) -> int:
        try:
            main(argv)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt as interrupt:
            print(
                f"interrupted: {str(interrupt) or 'nothing was saved; run the command again'}",
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
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
                print(
                    "error: this machine has too little memory; lower --batch-size or "
                    "--image-size, or give train_byol.py a higher --accumulate",
                    file=sys.stderr,
                )
                return 2
            name, refused, _ = str(error).partition(" does not have a deterministic implementation")
            if not refused or not torch.are_deterministic_algorithms_enabled():
                raise
            print(
                f"error: --deterministic: {name} has no deterministic version here; leave "
                "--deterministic out, or take --device cpu",
                file=sys.stderr,
            )
            return 2
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            where = f" while writing {error.filename}" if error.filename else ""
            print(f"error: the disk is full{where}; free some space and go on", file=sys.stderr)
            return 2
        return 0

    return run
