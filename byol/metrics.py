"""What a run writes about itself: metrics.jsonl, one object a line, and small JSON files."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from tqdm import tqdm

from byol.files import naming, write_atomically


def write_json(path: str | Path, content: dict) -> None:
    """Write a JSON file whole or not at all."""
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def progress(total: int, unit: str, initial: int = 0) -> tqdm:
    """A bar with speed and time left; a line every half minute where stderr is a file."""
    if sys.stderr.isatty():
        return tqdm(total=total, initial=initial, unit=unit, dynamic_ncols=True, mininterval=0.5)
    # no width to draw in: words only
    form = "{n_fmt}/{total_fmt} {unit}s, {remaining} left, {rate_fmt}{postfix}\n"
    return tqdm(
        total=total, initial=initial, unit=unit, mininterval=30, maxinterval=60, bar_format=form
    )


def read_later(tensor: torch.Tensor) -> Callable[[], list]:
    """Start to copy `tensor` to the host; the function returned gives its values as lists.

    On CUDA it waits for the work queued until now, and for none that is queued after it.
    """
    if not tensor.is_cuda:
        return tensor.tolist
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    copy.copy_(tensor, non_blocking=True)
    arrived = torch.cuda.current_stream(tensor.device).record_event()

    def values() -> list:
        arrived.synchronize()
        return copy.tolist()

    return values


def read_jsonl(path: str | Path) -> list[dict]:
    """The objects of a metrics file. A last line that was cut off is left out."""
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
    """

    def __init__(self, path: Path, keep_through: int = 0):
        rows = read_jsonl(path) if keep_through and path.exists() else []
        kept = [json.dumps(row) + "\n" for row in rows if row["step"] <= keep_through]
        write_atomically(path, "".join(kept).encode())
        self._path = path
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115  (closed by __exit__)

    def write(self, **values) -> None:
        """Raises `OSError` where there is no room for the line, of which then nothing stays."""
        line = (json.dumps(values) + "\n").encode()
        end = self._file.seek(0, os.SEEK_END)
        with naming(self._path):
            try:
                while line:
                    line = line[self._file.write(line) :]
            except OSError:
                self._file.truncate(end)
                raise

    def flush_to_disk(self) -> None:
        """Before a checkpoint, so that no line is lost that a resumed run does not write again."""
        with naming(self._path):
            os.fsync(self._file.fileno())

    def __enter__(self) -> MetricsFile:
        return self

    def __exit__(self, *_) -> None:
        self._file.close()
