"""metrics.jsonl: a line of JSON for each report of a run."""

from __future__ import annotations

import json
import os
from pathlib import Path

from byol.files import naming, write_atomically
from byol.run.events import Events

HEALTH = "health"  # kind of a line


def read_jsonl(path: str | Path, kind: str | None = None) -> list[dict]:
    """Read the lines of a metrics file: those of training, or of another `kind`.

    A last line that was cut off is left out.
    """
    return [row for row in read_lines(path) if row.get("kind") == kind]


def read_lines(path: str | Path) -> list[dict]:
    """Read all lines of a metrics file. A last line that was cut off is left out."""
    rows = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


class MetricsFile:
    """Appends objects to `path`, each flushed as it is written.

    Lines of an earlier run are kept up to and including step `keep_through`; 0 starts anew.
    tensorboard: TensorBoard gets the same numbers, those of kept lines as well.
    """

    def __init__(self, path: Path, keep_through: int = 0, tensorboard: bool = False):
        rows = read_lines(path) if keep_through and path.exists() else []
        kept = [row for row in rows if row["step"] <= keep_through]
        write_atomically(path, "".join(json.dumps(row) + "\n" for row in kept).encode())
        self._events = Events(path.parent) if tensorboard else None
        for row in kept if self._events else ():
            self._events.write(row)
        self._path = path
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115  (closed by __exit__)

    def write(self, **values) -> None:
        """Append a line. Raises `OSError` if there is no room; then nothing of the line stays."""
        line = (json.dumps(values) + "\n").encode()
        end = self._file.seek(0, os.SEEK_END)
        with naming(self._path):
            try:
                while line:
                    line = line[self._file.write(line) :]
            except OSError:
                self._file.truncate(end)
                raise
        if self._events:
            self._events.write(values)

    def flush_to_disk(self) -> None:
        """Flush before a checkpoint: no line is lost that a resumed run does not write again."""
        with naming(self._path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()
        if self._events:
            self._events.close()

    def __enter__(self) -> MetricsFile:
        return self

    def __exit__(self, *_) -> None:
        self.close()
