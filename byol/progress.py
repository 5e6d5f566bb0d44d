"""What a script tells of its work: lines and bars on stderr. `--quiet` silences them.

Results go to stdout, by `print`. Warnings and errors go to stderr, and nothing silences them.
"""

from __future__ import annotations

import sys

_silent = False


def silence(wanted: bool = True) -> None:
    """Leave out, or no longer leave out, what this process tells of its work."""
    global _silent
    _silent = wanted


def silent() -> bool:
    """Tell whether lines and bars are to be left out."""
    return _silent


def say(text: str) -> None:
    """Write a line, or several, on stderr, unless they are silenced."""
    if not _silent:
        print(text, file=sys.stderr, flush=True)
