"""What does it cost to read the stored photos? Each command prints one JSON line.

    python -m benchmarks.reading kinds --data cats_vs_dogs.zip
    python -m benchmarks.reading loop --data cats_vs_dogs.zip
    python -m benchmarks.reading disk --gb 4

`kinds` packs the photos of --data raw and as JPEGs, and reads batches of each in turn from the page
cache: bytes of a photo, photos/s, and photos in a second of one core.

`loop` trains with both kinds in turn, with the settings for 64 px and further flags of
train_byol.py: images/s (median of a step).

`disk` writes a pack of noise, and reads batches of it in several ways in turn. Let the system have
less memory than the pack, or all is read from the page cache: in front of the command put
`systemd-run --scope -p MemoryMax=1G`, or make a cgroup. A line tells how much came from the disk.
With --step-ms a step of so long follows each batch, while a thread reads the next one.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.common import median_speed, train_until, versions
from byol.command_line import command
from data import open_photos
from data.shards import KINDS
from data.stored import HEADER_BYTES, StoredArray, npy_header

SETTINGS = ["--config", "configs/cats_vs_dogs_64.toml"]


def batches_of(count: int, size: int, seed: int) -> Iterator[np.ndarray]:
    """Yield rows of a batch after the other, without end."""
    draws = np.random.default_rng(seed)
    while True:
        yield draws.choice(count, size, replace=False)


def in_turn(ways: dict[str, Callable], batches: Iterator, rounds: int) -> dict[str, list]:
    """Call each way with a batch of its own, again and again; give what the calls return."""
    results = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            results[name].append(way(next(batches)))
    return results


# ---- kinds


def compare_kinds(data: str, side: int, batch: int, rounds: int) -> dict:
    """Read the same photos, stored raw and as JPEGs."""
    photos = {kind: open_photos(data, side, kind=kind) for kind in KINDS}
    count = len(photos["raw"].names)
    out = np.empty((batch, 3, *photos["raw"].shape), np.uint8)

    def time_reading(images) -> Callable[[np.ndarray], tuple[float, float]]:
        def read(rows: np.ndarray) -> tuple[float, float]:
            start = time.perf_counter(), time.process_time()
            images.read(rows, out)
            return time.perf_counter() - start[0], time.process_time() - start[1]

        return read

    for each in photos.values():  # into the page cache
        for at in range(0, count - batch, batch):
            each.images.read(np.arange(at, at + batch), out)
    ways = {kind: time_reading(each.images) for kind, each in photos.items()}
    result = {}
    for kind, seconds in in_turn(ways, batches_of(count, batch, 0), rounds).items():
        wall, of_cores = (batch / statistics.median(each) for each in zip(*seconds, strict=True))
        size = sum(file.stat().st_size for file in photos[kind].folder.glob("images*.npy"))
        result[kind] = {
            "mb_per_1000_photos": round(size / count / 1000, 2),
            "photos_per_second": round(wall),
            "photos_per_second_of_a_core": round(of_cores),
        }
    return {"store_size": side, "photos": count, **result}


# ---- loop


def train(data: str, kind: str, steps: int, flags: list[str]) -> float:
    """Train for some steps: images/s."""
    flags = [*SETTINGS, "--data", data, "--pack", kind, *flags]
    with tempfile.TemporaryDirectory() as folder:
        return median_speed(train_until(steps, flags, Path(folder)))


# ---- disk


def write_noise(path: Path, row_bytes: int, size: int) -> StoredArray:
    """Write rows of noise, so many bytes in all, and forget them in the page cache."""
    shape, draws = (size // row_bytes, row_bytes), np.random.default_rng(0)
    with open(path, "wb") as file:
        file.write(npy_header(np.uint8, shape))
        while (left := shape[0] * row_bytes + HEADER_BYTES - file.tell()) > 0:
            file.write(draws.bytes(min(left, 64 << 20)))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return StoredArray(path, np.uint8, shape)


def ways_to_read(path: Path, shape: tuple[int, int]) -> dict[str, Callable]:
    """List the ways: each reads rows into an array."""
    plain, random = (StoredArray(path, np.uint8, shape) for _ in range(2))
    os.posix_fadvise(random._file, 0, 0, os.POSIX_FADV_RANDOM)
    mapped, at_random = (np.load(path, mmap_mode="r") for _ in range(2))
    at_random._mmap.madvise(mmap.MADV_RANDOM)

    def one_by_one(array: StoredArray, rows: np.ndarray, out: np.ndarray) -> None:
        array.read_into(rows, out, np.arange(len(rows)))

    return {
        "mapped": lambda rows, out: np.take(mapped, rows, 0, out, mode="clip"),
        "mapped, MADV_RANDOM, sorted": lambda rows, out: np.take(
            at_random, np.sort(rows), 0, out, mode="clip"
        ),
        "read": lambda rows, out: one_by_one(plain, rows, out),
        "read, sorted": lambda rows, out: one_by_one(plain, np.sort(rows), out),
        "read, FADV_RANDOM, sorted": lambda rows, out: one_by_one(random, np.sort(rows), out),
        "asked for, read": plain.read,
        "asked for, read, sorted": lambda rows, out: plain.read(np.sort(rows), out),
    }


def bytes_from_disk() -> int:
    """Count what this process has had read from disks."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


def time_disk(path: Path, row_bytes: int, args) -> dict:
    """Read batches from the disk in all ways, in turn."""
    array = write_noise(path, row_bytes, int(args.gb * 1e9))
    out = np.empty((2, args.batch, row_bytes), np.uint8)
    batches = batches_of(len(array), args.batch, 1)

    def alone(read: Callable) -> Callable[[np.ndarray], tuple[float, float]]:
        def timed(rows: np.ndarray) -> tuple[float, float]:
            before, start = bytes_from_disk(), time.perf_counter()
            read(rows, out[0])
            return time.perf_counter() - start, bytes_from_disk() - before

        return timed

    def ahead(read: Callable, steps: int = 4) -> Callable[[np.ndarray], float]:
        def timed(rows: np.ndarray) -> float:
            with ThreadPoolExecutor(1) as reader:
                following = reader.submit(read, rows, out[0])
                for step in range(steps + 1):
                    following.result()
                    if not step:
                        start = time.perf_counter()  # the first batch is there
                    following = reader.submit(read, next(batches), out[(step + 1) % 2])
                    time.sleep(args.step_ms / 1000 if step < steps else 0)
                seconds = (time.perf_counter() - start) / steps
                following.result()
            return seconds

        return timed

    ways = ways_to_read(path, array.shape)
    read = in_turn({name: alone(way) for name, way in ways.items()}, batches, args.rounds)
    steps = {}
    if args.step_ms:
        few = {name: ahead(way) for name, way in ways.items() if "mapped" not in name}
        steps = in_turn(few, batches, max(1, args.rounds // 4))
    result = {}
    for name, each in read.items():
        seconds, from_disk = map(statistics.median, zip(*each, strict=True))
        result[name] = {
            "ms": round(1000 * seconds, 2),
            "photos_per_second": round(args.batch / seconds),
            "mb_from_disk": round(from_disk / 1e6, 1),
        }
        if name in steps:
            result[name]["ms_of_a_step_with_the_next_read_ahead"] = round(
                1000 * statistics.median(steps[name]), 1
            )
    return {"photo_bytes": row_bytes, "mb_of_a_batch": args.batch * row_bytes / 1e6, **result}


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    kinds = commands.add_parser("kinds")
    loop = commands.add_parser("loop")
    disk = commands.add_parser("disk")
    for each in (kinds, loop):
        each.add_argument("--data", required=True, help="a folder or an archive of photos")
    kinds.add_argument("--store-sizes", type=int, nargs="+", default=[72, 180])
    loop.add_argument("--steps", type=int, default=24, help="of each run")
    disk.add_argument("--gb", type=float, default=4.0, help="size of the pack")
    disk.add_argument("--photo-bytes", type=int, nargs="+", default=[97_200, 10_000])
    disk.add_argument("--step-ms", type=float, default=0.0, help="how long a step waits")
    disk.add_argument("--folder", help="on the disk to be timed; default: the system's")
    for each in (kinds, disk):
        each.add_argument("--batch", type=int, default=256)
    for each, rounds in ((kinds, 40), (loop, 3), (disk, 12)):
        each.add_argument("--rounds", type=int, default=rounds)
    args, flags = parser.parse_known_args(argv)
    if flags and args.command != "loop":
        parser.error(f"unknown: {' '.join(flags)}")

    if args.command == "kinds":
        sizes = [
            compare_kinds(args.data, side, args.batch, args.rounds) for side in args.store_sizes
        ]
        result = {"sizes": sizes, "data": Path(args.data).name}
    elif args.command == "loop":
        ways = {
            kind: lambda _, kind=kind: train(args.data, kind, args.steps, flags) for kind in KINDS
        }
        rounds = in_turn(ways, iter(lambda: None, 1), args.rounds)
        speeds = {kind: statistics.median(each) for kind, each in rounds.items()}
        result = {
            "images_per_second": speeds,
            "by_round": rounds,
            "jpeg_times_raw": round(speeds["jpeg"] / speeds["raw"], 3),
            "flags": [*SETTINGS, *flags],
            "data": Path(args.data).name,
        }
    else:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            path = Path(folder) / "images.npy"
            result = {"sizes": [time_disk(path, size, args) for size in args.photo_bytes]}
        result |= {"gb": args.gb, "batch": args.batch, "step_ms": args.step_ms}
    result |= {"cpus": os.cpu_count(), **versions()}
    print(json.dumps(result))


if __name__ == "__main__":
    sys.exit(main())
