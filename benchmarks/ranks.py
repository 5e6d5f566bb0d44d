"""How fast are several processes beside one? Prints one JSON line.

    OMP_NUM_THREADS=1 python -m benchmarks.ranks --config configs/cats_vs_dogs_64.toml
    python -m benchmarks.ranks --counts 1 2 4 --steps 200 --batch-size 1024 --data cats-vs-dogs

Takes the flags of train_byol.py, and runs it by torchrun with each count of processes in turn, for
some steps. The batch is the same for all. For each count, of the first process, over all rounds:
images/s (median of a step), how many times as fast as one process that is, the seconds that a step
takes of a processor, and on a CPU the share of a step that passes in messages. Waiting for a
process that is late is a part of that.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch.distributed as dist

import train_byol
from benchmarks.common import ROOT, versions
from byol.command_line import command, parse
from byol.config import PretrainConfig
from byol.errors import UserError
from byol.method import BYOL

WARM_UP = 3  # steps, at the start of each run


def time_steps(path: str, steps: int, argv: list[str]) -> int:
    """Train, and let the first process write the seconds of each step (see `run`)."""
    rows, messages, began = [], [0.0], [0.0, 0.0]
    reduce, update = dist.all_reduce, BYOL.update_target

    def timed_reduce(*args, **options):
        at = time.perf_counter()
        result = reduce(*args, **options)
        messages[0] += time.perf_counter() - at
        return result

    def timed_update(model, tau):
        update(model, tau)
        now = [time.perf_counter(), time.process_time()]
        rows.append((now[0] - began[0], messages[0], now[1] - began[1]))
        messages[0], began[:] = 0.0, now
        if len(rows) == steps:
            if not int(os.environ["RANK"]):
                Path(path).write_text(json.dumps(rows))
            os._exit(0)

    dist.all_reduce, BYOL.update_target = timed_reduce, timed_update
    return train_byol.main(argv)


def run(count: int, steps: int, flags: list[str]) -> list[tuple[float, float, float]]:
    """Run some steps of `count` processes: the seconds of each, in messages, and of a processor."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "seconds.json")
        here = ["--run-dir", f"{folder}/run", "--out", f"{folder}/byol.pt"]
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        start += [f"--nproc-per-node={count}", "-m", "benchmarks.ranks"]
        done = subprocess.run(
            [*start, "--time-steps", path, "--steps", str(steps), *flags, *here],
            cwd=ROOT, capture_output=True, text=True,
        )  # fmt: skip
        if not path.exists():
            raise UserError(f"{count} processes ended early: {done.stderr.strip()[-1000:]}")
        return json.loads(path.read_text())[WARM_UP:]


@command
def main(argv: list[str] | None = None) -> None:
    options, flags = parse_own(argv)
    config, _ = parse(PretrainConfig, flags, __doc__)
    rows = {count: [] for count in options.counts}
    for _ in range(options.rounds):
        for count in options.counts:
            rows[count] += run(count, options.steps, flags)
    speed = {
        count: config.batch_size / statistics.median(step for step, *_ in of_count)
        for count, of_count in rows.items()
    }
    shares = {
        count: statistics.median(message / step for step, message, _ in of_count)
        for count, of_count in rows.items()
    }
    busy = {
        count: statistics.median(processor for *_, processor in of_count)
        for count, of_count in rows.items()
    }
    first = speed[options.counts[0]]
    result = {
        "images_per_second": {count: round(value, 1) for count, value in speed.items()},
        "times_the_first": {count: round(value / first, 3) for count, value in speed.items()},
        "share_in_messages": {count: round(value, 3) for count, value in shares.items()},
        "processor_seconds": {count: round(value, 4) for count, value in busy.items()},
    }
    threads = os.environ.get("OMP_NUM_THREADS")
    print(json.dumps({**result, "threads": threads, **versions()}))


def parse_own(argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Part the options of this benchmark from the flags of train_byol.py."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--time-steps")
    return parser.parse_known_args(argv)


if __name__ == "__main__":
    if "--time-steps" in sys.argv:
        options, flags = parse_own(sys.argv[1:])
        sys.exit(time_steps(options.time_steps, options.steps, flags))
    sys.exit(main())
