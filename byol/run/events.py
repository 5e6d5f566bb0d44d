"""The lines of metrics.jsonl for TensorBoard, if it is installed (`--tensorboard`)."""

from __future__ import annotations

from pathlib import Path

from byol.errors import UserError
from byol.files import naming

FOLDER = "tensorboard"  # in the folder of a run
FLUSH = 10  # seconds


def check_tensorboard() -> None:
    """Raise `UserError` if TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: F401  (takes a second to import)
    except ImportError:
        raise UserError(
            "--tensorboard needs TensorBoard, which is not installed: pip install tensorboard, or "
            "leave the option out (metrics.jsonl has the same numbers)"
        ) from None


def remove_events(run_folder: Path) -> None:
    """Remove what an earlier process wrote for TensorBoard."""
    for path in (run_folder / FOLDER).glob("events.out.tfevents.*"):
        path.unlink()


class Events:
    """Writes each number of a line as a point of a curve, into `FOLDER` of the run folder.

    It begins anew: who goes on with a run writes the earlier lines again, so no step comes twice.
    """

    def __init__(self, run_folder: Path):
        from torch.utils.tensorboard import SummaryWriter

        self._folder = run_folder / FOLDER
        with naming(self._folder):
            remove_events(run_folder)
            # purge_step: a TensorBoard that is looking on forgets what it read before
            self._writer = SummaryWriter(str(self._folder), purge_step=0, flush_secs=FLUSH)

    def write(self, values: dict) -> None:
        """Write a line: at its step, or of a classifier at its epoch. Raises `OSError`."""
        step = values.get("step", values.get("epoch"))
        with naming(self._folder):
            # a line of health has names of its own, those of random weights too
            prefix = f"{values['kind']}/{values['of']}/" if "kind" in values else ""
            for name, value in values.items():
                if name not in ("step", "kind", "of"):
                    self._writer.add_scalar(prefix + name, value, step)

    def close(self) -> None:
        with naming(self._folder):
            self._writer.close()
