"""What a script tells of its work: lines and bars on stderr, and times in words.

`--quiet` silences lines and bars.

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


def about_time(seconds: float) -> str:
    """Write the seconds that something will take, as roughly as they are known."""
    if seconds < 60:
        return "less than a minute"
    if seconds > 2 * 3600:
        return f"about {seconds / 3600:.1f} hours"
    return "about a minute" if seconds < 90 else f"about {seconds / 60:.0f} minutes"


def duration(seconds: float) -> str:
    """Write the seconds that something took, as nobody would say them more exactly."""
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 3600:.1f} hours" if seconds > 2 * 3600 else f"{seconds / 60:.1f} minutes"
