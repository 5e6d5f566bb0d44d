"""What made a run: commands, times, versions, machine, photos, for the page of `plot_losses.py`.

A run writes it to about.json as it goes, and a classifier puts it into its summary.json at the end.
Nothing else reads it: a run without it, as of earlier versions, is none the worse.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import platform
import re
import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from byol import __version__
from byol.files import usable_cores, write_json

ROOT = Path(__file__).resolve().parents[2]
NAMED = 10  # of the skipped files
PARTS = ("labelled", "unlabelled", "hidden", "holdout", "test", "learned")  # of a split

_command = ""


@contextlib.contextmanager
def running(script: str, argv: list[str] | None) -> Iterator[None]:
    """Remember the command line of `script`, a path, until the end of the `with`."""
    global _command
    before, _command = _command, spell_command(script, sys.argv[1:] if argv is None else argv)
    try:
        yield
    finally:
        _command = before


def current_command() -> str:
    """Give the command line of the script that runs; nothing if there is none."""
    return _command


def spell_command(script: str, argv: list[str]) -> str:
    """Write a command line as a shell reads it. The user's own folder is written as ~."""
    path = Path(script).resolve()
    words = ["python", path.name]
    if path.is_relative_to(ROOT) and path.parent != ROOT:
        words = ["python", "-m", ".".join(path.relative_to(ROOT).with_suffix("").parts)]
    return " ".join([*words, *(_quote(word) for word in argv)])


def _quote(word: str) -> str:
    flag, _, value = word.partition("=")
    if flag.startswith("--") and without_home(value) != value:
        return f"{flag} {_quote(value)}"  # after = a shell takes ~ for a letter
    short = without_home(word)
    if short == word or not short.startswith("~"):
        return shlex.quote(word)
    return "~/" + shlex.quote(short[2:]) if short[2:] else "~"


def without_home(text: str) -> str:
    """Write ~ for the user's own folder where a path begins, so that it does not tell a name."""
    home = str(Path("~").expanduser()).rstrip("/")
    if not home or home == "~":
        return text
    return re.sub(rf"(?<!\S){re.escape(home)}(?=/|\s|$)", "~", text)


def describe_photos(photos, split) -> dict:
    """Count photos, classes, the parts of the split, and what could not be used, for JSON."""

    def of_classes(rows: np.ndarray) -> list[int]:
        labels = photos.labels[rows]
        return np.bincount(labels[labels >= 0], minlength=len(photos.classes)).tolist()

    columns = of_classes(slice(None)), of_classes(split.labelled), of_classes(photos.is_test)
    reasons = Counter(reason for _, reason in photos.skipped)
    return {
        "source": without_home(photos.source),
        "fingerprint": photos.fingerprint,
        "count": len(photos.names),
        "without_class": int((photos.labels < 0).sum()),
        "classes": [
            {"name": name, "photos": count, "labelled": labelled, "test": test}
            for name, count, labelled, test in zip(photos.classes, *columns, strict=True)
        ],
        "split": {part: len(getattr(split, part)) for part in PARTS},
        "skipped": dict(reasons.most_common(NAMED)),
        "skipped_count": len(photos.skipped),
        "skipped_first": [list(photos.skipped[at]) for at in range(len(photos.skipped))[:NAMED]],
        "passed_over": str(photos.passed),
    }


def describe_machine() -> dict:
    """Name the machine's system, processor and GPU. Neither its name nor its user is told."""
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "processor": _processor(),
        "cores": usable_cores(),
        "gpu": card,
    }


def _processor() -> str:
    """Name the processor, as far as the system says it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


class About:
    """What made a run, kept in a file. Each process that worked on the run has a session there.

    path: the file. name: of the run; going_on: whether it goes on, so that the sessions before
    count too. device: where this session computes, in words.
    """

    def __init__(self, path: Path, name: str, going_on: bool, photos, split, device: str):
        self.path, self.began = path, time.perf_counter()
        before = read_about(path) if going_on else {}
        if before.get("run") != name:
            before = {}
        self.session = {
            "command": current_command(),
            "begun": _now(),
            "device": device,
            "byol": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "machine": describe_machine(),
        }
        sessions = [*before.get("sessions", []), self.session]
        about = describe_photos(photos, split)
        self.content = {"run": name, "photos": about, "sessions": sessions}
        self.write()

    def write(self) -> None:
        """Write it, with the time until now."""
        self.session["ended"] = _now()
        self.session["seconds"] = round(time.perf_counter() - self.began, 1)
        write_json(self.path, self.content)


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def read_about(path: Path) -> dict:
    """Read what `About` wrote. Of a file that is missing or damaged, nothing."""
    try:
        return whole_about(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return {}


def whole_about(content: object) -> dict:
    """Give back what `About` wrote if it is whole, else nothing: a file may be damaged."""
    try:
        photos, sessions = content["photos"], content["sessions"]
        counts = [photos["split"][part] for part in PARTS] + [*photos["skipped"].values()]
        counts += [photos[key] for key in ("count", "without_class", "skipped_count")]
        for row in photos["classes"]:
            counts += [row["photos"], row["labelled"], row["test"]]
        texts = [photos["source"], photos["fingerprint"], photos["passed_over"]]
        texts += [text for name, reason in photos["skipped_first"] for text in (name, reason)]
        texts += [row["name"] for row in photos["classes"]]
        for session in sessions:
            keys = "command", "begun", "ended", "device", "byol", "torch", "python"
            texts += [session[key] for key in keys]
            texts += [session["machine"][key] for key in ("system", "processor")]
            texts += [session["machine"]["gpu"] or ""]
            counts += [session["machine"]["cores"], round(session["seconds"])]
        whole = all(type(n) is int for n in counts) and all(type(t) is str for t in texts)
        return content if whole and sessions else {}
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError):
        return {}
