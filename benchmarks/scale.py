"""Do the start, the memory and the speed of training stay the same as the photos grow?

    python -m benchmarks.scale --counts 25000 1000000 --store-size 16 --shard-mb 64

For each count, packs as many small photos of noise, in two class folders, in a temporary folder.
All of packing is done but for reading and decoding files: benchmarks/packing.py times that. A fresh
process then opens the pack again, draws a split and writes it, each several times (medians): this
is what a run does with its photos before the first step. Another one trains with train_byol.py,
for each count in turn, and its memory is read until it has logged some steps. Memory is what the
process has for itself (RssAnon); the page cache (RssFile) is the system's to take back. Prints one
JSON line; progress goes to stderr.

1,000,000 photos of 16 px take about 1 GB on the disk meanwhile. On cores that others use as well,
OMP_NUM_THREADS=1 in front keeps the steps short, and seconds of the processor say more than those
of the clock.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import json
import multiprocessing
import os
import resource
import shutil
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import median_speed, train_until, versions
from byol.command_line import command
from byol.schedules import epoch_order
from data import make_split, open_photos, packing, shards
from data.cache import add_listing
from data.items import Item, Loaded
from data.opening import cache_folder, listing_of
from data.sources import find_source

LABELS = 250
TRAINING = (
    "--config configs/paper.toml --recipe small --optimizer sgd --image-size 32 --batch-size 128 "
    f"--hidden-dim 256 --epochs 1 --labels {LABELS}"
)


def photos_of_noise(count: int, side: int) -> Iterator[Item]:
    """Yield photos that need no file, half of them below a/, half below b/."""

    def load(name: str, *_) -> Loaded:
        digest = hashlib.sha256(name.encode()).digest()
        noise = hashlib.shake_128(digest).digest(3 * side * side)
        pixels = np.frombuffer(noise, np.uint8).reshape(3, side, side)
        return Loaded(name, pixels, side, side, digest)

    for index in range(count):
        name = f"photos/{'ab'[index % 2]}/{index:08}.jpg"
        yield Item(name, functools.partial(load, name))


def pack(path: str, count: int, store_size: int, shard_bytes: int) -> tuple[float, float]:
    """Pack photos of noise as those of a tar that is empty. Later openings know it by its listing.

    Gives the seconds that it takes, and the memory at most, in GiB.
    """
    shards.SHARD_BYTES = shard_bytes
    tarfile.open(path, "w").close()
    start = time.perf_counter()
    tar = find_source(path)
    items = functools.partial(photos_of_noise, count, store_size)
    noise = dataclasses.replace(tar, items=items, count=lambda: count)
    folder, passed = packing.pack(noise, path, store_size, cache_folder(), progress=True)
    add_listing(folder, listing_of(tar, store_size), passed.kinds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return time.perf_counter() - start, peak


def begin(path: str, store_size: int, rounds: int) -> dict[str, float]:
    """Time what a run does with its photos before the first step, in seconds."""
    laps: dict[str, list[float]] = {}
    saved = Path(path).with_suffix(".json")
    for _ in range(rounds):
        clocks = [(time.perf_counter(), time.process_time())]
        photos = open_photos(path, store_size, progress=False)
        clocks.append((time.perf_counter(), time.process_time()))
        split = make_split(photos, LABELS)
        clocks.append((time.perf_counter(), time.process_time()))
        split.digest_learned()
        split.save(saved)
        epoch_order(len(split.learned), 0, 0)
        clocks.append((time.perf_counter(), time.process_time()))
        wall, processor = np.diff(np.array(clocks).T).tolist()
        epoch_order.cache_clear()
        for name, value in {
            "seconds_to_open": wall[0],
            "seconds_to_split": wall[1],
            "seconds_to_begin": sum(wall),
            "processor_seconds_to_begin": sum(processor),
        }.items():
            laps.setdefault(name, []).append(value)
    saved.unlink()
    return {name: round(statistics.median(values), 4) for name, values in laps.items()}


def in_fresh_process(function: Callable, *args):
    """Call the function in a process of its own, and return what it returns."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def train(folder: Path, store_size: int, steps: int) -> dict[str, float]:
    """Train with the photos below `folder`; give its memory in GiB, peak and last, and speed."""
    os.environ["BYOL_CACHE"] = str(folder / "cache")
    sides = ["--image-size", str(min(32, store_size)), "--store-size", str(store_size)]
    flags = [*TRAINING.split(), "--data", str(folder / "photos.tar"), *sides]
    anonymous, mapped = [0], [0]

    def look(process: int) -> None:
        status = Path(f"/proc/{process}/status").read_text()
        lines = dict(line.split(":", 1) for line in status.splitlines())
        for name, values in (("RssAnon", anonymous), ("RssFile", mapped)):
            values.append(int(lines.get(name, "0 kB").split()[0]))

    speed = median_speed(train_until(steps, flags, folder, look))
    shutil.rmtree(folder / "run")
    kib = {
        "peak_rss_anon_gib": max(anonymous),
        "last_rss_anon_gib": anonymous[-1],
        "last_rss_file_gib": mapped[-1],
    }
    of_memory = {name: round(value / 2**20, 3) for name, value in kib.items()}
    return {**of_memory, "images_per_second": speed}


def prepare(folder: Path, count: int, store_size: int, shard_bytes: int, rounds: int) -> dict:
    """Pack `count` photos below `folder`, and time the start with them."""
    folder.mkdir()
    os.environ["BYOL_CACHE"] = str(folder / "cache")  # of the processes below
    path = folder / "photos.tar"
    seconds, peak = in_fresh_process(pack, str(path), count, store_size, shard_bytes)
    return {
        "count": count,
        "shards": len(list(folder.glob("cache/*/images*.npy"))),
        "seconds_to_pack": round(seconds, 1),
        "peak_gib_of_packing": round(peak, 3),
        **in_fresh_process(begin, str(path), store_size, rounds),
    }


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[25_000, 500_000])
    parser.add_argument("--store-size", type=int, default=40)
    parser.add_argument("--steps", type=int, default=30, help="that training takes")
    parser.add_argument("--rounds", type=int, default=5, help="of opening and splitting")
    parser.add_argument("--turns", type=int, default=1, help="of training, each count in turn")
    parser.add_argument("--shard-mb", type=int, default=4096, help="MiB of a shard")
    parser.add_argument("--folder", help="for what is written meanwhile; default: the system's")
    args = parser.parse_args(argv)

    with tempfile.TemporaryDirectory(dir=args.folder) as created:
        folders = [Path(created) / str(count) for count in args.counts]
        shape = args.store_size, args.shard_mb << 20, args.rounds
        sizes = [
            prepare(folder, count, *shape)
            for folder, count in zip(folders, args.counts, strict=True)
        ]
        turns = []
        for _ in range(args.turns):
            print(f"training for {args.steps} steps, each count in turn", file=sys.stderr)
            turns.append([train(folder, args.store_size, args.steps) for folder in folders])
    for size, of_size in zip(sizes, zip(*turns, strict=True), strict=True):
        for name in of_size[0]:
            size[name] = statistics.median(turn[name] for turn in of_size)
        size["images_per_second_by_turn"] = [turn["images_per_second"] for turn in of_size]
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
