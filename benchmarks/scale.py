"""Do opening a packed set and the memory of training stay the same as the photos grow?

    python -m benchmarks.scale --counts 25000 500000

For each count, packs a tar of as many tiny JPEG files (one picture under many names, in two class
folders) in a temporary folder. A fresh process then opens the pack again and draws a split, each
several times (medians). Another one trains with train_byol.py, and its memory is read until it has
logged some steps. Memory is what the process has for itself (RssAnon); pages of the mapped photos
(RssFile) are the system's to take back. Prints one JSON line; progress goes to stderr.

500,000 photos take about 4 GB on the disk meanwhile. On cores that others use as well,
OMP_NUM_THREADS=1 in front keeps the steps short.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.common import ROOT, versions
from byol.command_line import command
from data import make_split, open_photos

LABELS = 250
TRAINING = (
    "--config configs/paper.toml --recipe small --optimizer sgd --image-size 32 --batch-size 128 "
    f"--hidden-dim 256 --epochs 1 --labels {LABELS} --log-every 1"
)


def write_tar(path: Path, count: int, side: int) -> None:
    """Write a tar of `count` JPEG files, half of them below a/, half below b/."""
    pixels = np.random.default_rng(0).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC).save(stream, "JPEG")
    blob = stream.getvalue()
    with tarfile.open(path, "w") as archive:
        for index in range(count):
            info = tarfile.TarInfo(f"photos/{'ab'[index % 2]}/{index:07}.jpg")
            info.size = len(blob)
            archive.addfile(info, io.BytesIO(blob))
            archive.members.clear()  # it keeps the headers of all


def pack(path: str, store_size: int) -> float:
    """Time the first opening, in seconds."""
    start = time.perf_counter()
    open_photos(path, store_size)
    return time.perf_counter() - start


def open_and_split(path: str, store_size: int, rounds: int) -> tuple[float, float]:
    """Time to open a pack, and to draw a split of it, in seconds."""
    opening, splitting = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        photos = open_photos(path, store_size, progress=False)
        middle = time.perf_counter()
        make_split(photos, LABELS)
        opening.append(middle - start)
        splitting.append(time.perf_counter() - middle)
    return statistics.median(opening), statistics.median(splitting)


def in_fresh_process(function: Callable, *args):
    """Call the function in a process of its own, and return what it returns."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def memory_of_training(path: str, store_size: int, steps: int, folder: Path) -> dict[str, float]:
    """Read the memory of train_byol.py, in GiB, until it has logged `steps` steps.

    That is its peak, and what was last.
    """
    run, said = folder / "run", folder / "training.txt"
    metrics = run / "metrics.jsonl"
    command = [sys.executable, "train_byol.py", *TRAINING.split(), "--data", path]
    command += ["--store-size", str(store_size), "--run-dir", str(run), "--out", str(run / "b.pt")]
    peak = anonymous = mapped = 0
    with open(said, "wb") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file)
    try:
        while not metrics.exists() or metrics.read_bytes().count(b"\n") < steps:
            if process.poll() is not None:
                raise SystemExit(f"train_byol.py stopped too early:\n{said.read_text()}")
            status = Path(f"/proc/{process.pid}/status").read_text()
            lines = dict(line.split(":", 1) for line in status.splitlines())
            anonymous = int(lines.get("RssAnon", "0 kB").split()[0])
            mapped = int(lines.get("RssFile", "0 kB").split()[0])
            peak = max(peak, anonymous)
            time.sleep(0.02)
        process.terminate()  # SIGINT is ignored by what a shell runs in the background
        process.wait(60)
    finally:
        process.kill()
        process.wait()
    kib = {"peak_rss_anon_gib": peak, "last_rss_anon_gib": anonymous, "last_rss_file_gib": mapped}
    return {name: round(value / 2**20, 3) for name, value in kib.items()}


def measure(count: int, store_size: int, steps: int, rounds: int, scratch: str | None) -> dict:
    """Measure all figures of one count. What was written for it below `scratch` is removed."""
    with tempfile.TemporaryDirectory(dir=scratch) as created:
        folder = Path(created)
        os.environ["BYOL_CACHE"] = str(folder / "cache")  # of the processes below
        path = folder / "photos.tar"
        print(f"{count:,} photos: writing {path}", file=sys.stderr)
        write_tar(path, count, store_size)
        packing = in_fresh_process(pack, str(path), store_size)
        opening, splitting = in_fresh_process(open_and_split, str(path), store_size, rounds)
        print(f"{count:,} photos: training for {steps} steps", file=sys.stderr)
        memory = memory_of_training(str(path), store_size, steps, folder)
    return {
        "count": count,
        "seconds_to_pack": round(packing, 1),
        "seconds_to_open": round(opening, 4),
        "seconds_to_split": round(splitting, 3),
        **memory,
    }


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[25_000, 500_000])
    parser.add_argument("--store-size", type=int, default=40)
    parser.add_argument("--steps", type=int, default=30, help="that training takes")
    parser.add_argument("--rounds", type=int, default=5, help="of opening and splitting")
    parser.add_argument("--folder", help="for what is written meanwhile; default: the system's")
    args = parser.parse_args(argv)

    sizes = [
        measure(count, args.store_size, args.steps, args.rounds, args.folder)
        for count in args.counts
    ]
    result = {
        "sizes": sizes,
        "store_size": args.store_size,
        "labels": LABELS,
        "steps": args.steps,
        "training": TRAINING,
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        **versions(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    sys.exit(main())
