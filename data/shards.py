"""The stored photos of a pack: one file, or shards of bounded size that are read as one array.

Each shard is a .npy file of `shard_rows` photos; the last one may have fewer. They are stored raw,
or as JPEGs (data/jpegs.py). If photos of earlier packs lie in shards, then `places.npy` says where
each photo of this pack is.
"""

from __future__ import annotations

import contextlib
import math
import os
from array import array
from pathlib import Path

import numpy as np

from data.items import STAMP_BYTES
from data.jpegs import AT_ONCE, JpegFile, threads
from data.stored import HEADER_BYTES, Rows, StoredArray, npy_header, write_array

SHARD_BYTES = 4 * 2**30
PLACES = "places.npy"
DIGEST_BYTES = 32  # of SHA-256
RAW, JPEG = KINDS = "raw", "jpeg"  # how the photos of a pack are stored
JPEG_HEADER = 1024  # bytes of a JPEG at most that are not its pixels


def shard_name(number: int) -> str:
    """Name the file of a shard: the first is called as the only one of a small pack."""
    return f"images-{number:05}.npy" if number else "images.npy"


def rows_of_shard(shape: tuple[int, int], kind: str = RAW) -> int:
    """Count the photos of a whole shard. shape: height and width of a stored photo.

    A JPEG counts as much as the photo raw: the worst may take as much, most take a tenth.
    """
    return max(1, SHARD_BYTES // (3 * math.prod(shape) + (JPEG_HEADER if kind == JPEG else 0)))


def open_shard(path: Path, rows: int, shape: tuple[int, int], kind: str) -> StoredArray | JpegFile:
    """Open one file of photos. Raises `OSError` or `ValueError` if it is not this one."""
    if kind == JPEG:
        return JpegFile(path, rows, shape)
    return StoredArray(path, np.uint8, (rows, 3, *shape))


class Shards(Rows):
    """The photos of a pack in shards: uint8 (N, 3, H, W)."""

    def __init__(
        self,
        folder: Path,
        shape: tuple[int, ...],
        stored: int,
        shard_rows: int,
        in_order: bool = True,
        kind: str = RAW,
    ):
        """stored: how many photos lie in the shards, which may be others as well.

        in_order: the first ones are those of this pack; else `places.npy` says which.

        Raises `OSError` or `ValueError` if the files are not these.
        """
        self.path, self.dtype, self.shape = folder / shard_name(0), np.dtype(np.uint8), shape
        self.shard_rows, self.kind = shard_rows, kind
        self.shards = [
            open_shard(
                folder / shard_name(number), min(shard_rows, stored - first), shape[2:], kind
            )
            for number, first in enumerate(range(0, stored, shard_rows))
        ]
        self._places: np.ndarray | None = None
        if not in_order:
            self._places = StoredArray(folder / PLACES, np.uint32, shape[:1]).read_all()
        last = len(self) - 1 if in_order else self._places.max(initial=0)
        if last >= stored:
            raise ValueError(f"{folder} has {stored:,} photos, and none at {last:,}")

    def locate(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find where `rows` are: the number of the shard, and the row in it."""
        places = rows if self._places is None else self._places[rows].astype(np.int64)
        return np.divmod(places, self.shard_rows)

    def read(self, rows: np.ndarray, out: np.ndarray) -> None:
        """Read `rows` (int64, N) into `out` (N, 3, H, W), contiguous: in the order of the disk."""
        numbers, places = self.locate(rows)
        order = np.lexsort((places, numbers))
        cuts = np.flatnonzero(np.diff(numbers[order])) + 1
        pieces = np.split(order, cuts) if len(order) else []  # one for each shard
        for into in pieces:
            self.shards[numbers[into[0]]].ask_for_rows(places[into])

        def read(into: np.ndarray) -> None:
            self.shards[numbers[into[0]]].read_into(places[into], out, into)

        if self.kind == RAW or len(rows) == 1:
            list(map(read, pieces))
        else:
            few = (
                into[at : at + AT_ONCE] for into in pieces for at in range(0, len(into), AT_ONCE)
            )
            list(threads().map(read, few))

    def as_stored(self, row: int) -> np.ndarray:
        """Give what is stored of one row: the photo, uint8 (3, H, W), or the bytes of its JPEG."""
        if self.kind == RAW:
            return self[row]
        (number,), (place,) = self.locate(np.array([row]))
        return self.shards[number].read_jpeg(place)


def open_images(folder: Path, shape: tuple[int, ...], manifest: dict) -> StoredArray | Shards:
    """Open the stored photos of a pack. Raises `OSError`, `ValueError`, or `KeyError`."""
    if "shard_rows" not in manifest:
        return StoredArray(folder / shard_name(0), np.uint8, shape)
    about = (manifest[key] for key in ("stored", "shard_rows", "in_order"))
    return Shards(folder, shape, *about, kind_of(manifest))


def kind_of(manifest: dict) -> str:
    """Tell how the photos of a pack are stored."""
    return manifest.get("kind", RAW)


def image_files(manifest: dict) -> list[str]:
    """List the files that hold the stored photos, and say where they are in them."""
    if "shard_rows" not in manifest:
        return [shard_name(0)]
    count = len(range(0, manifest["stored"], manifest["shard_rows"]))
    return [*map(shard_name, range(count)), *([] if manifest["in_order"] else [PLACES])]


# ---- writing


class ShardWriter:
    """Writes photos into shards, one after the other.

    Beside each whole shard lie digests, stamps and sizes of its photos. They say that it is whole,
    so that another packing can go on from there.
    """

    def __init__(self, folder: Path, shape: tuple[int, int], version: int, kind: str = RAW):
        self.folder, self.shape, self.version, self.kind = folder, shape, version, kind
        self.shard_rows = rows_of_shard(shape, kind)
        self.count = 0
        self._file = None
        self._ends = array("q")
        self._digests, self._stamps, self._sizes = bytearray(), bytearray(), array("i")

    def close(self) -> None:
        """Close the file of a shard that is not complete."""
        if self._file:
            self._file.close()
            self._file = None

    def add(self, photo: np.ndarray, height: int, width: int, digest: bytes, stamp: bytes) -> None:
        """Write one photo, uint8 (3, H, W), or the bytes of its JPEG. Raises `OSError`.

        height, width: its own
        """
        if self._file is None:
            number = self.count // self.shard_rows
            self._file = open(self.folder / shard_name(number), "wb")  # noqa: SIM115
            self._file.seek(HEADER_BYTES)
        self._file.write(photo)
        self._ends.append(self._file.tell() - HEADER_BYTES)
        self._digests += digest
        self._stamps += stamp or bytes(STAMP_BYTES)
        self._sizes.extend((height, width))
        self.count += 1
        if self.count % self.shard_rows == 0:
            self._end_shard(self.shard_rows)
            number = self.count // self.shard_rows - 1
            columns = {
                "sizes": np.array(self._sizes, np.int32).reshape(-1, 2),
                "stamps": byte_rows(self._stamps, STAMP_BYTES),
                "digests": byte_rows(self._digests, DIGEST_BYTES),  # the last to be written
            }
            for what, column in columns.items():
                write_array(_side_file(self.folder, number, what, self.version, self.kind), column)
            self._digests, self._stamps, self._sizes = bytearray(), bytearray(), array("i")

    def finish(self) -> None:
        """Complete the last shard; without any photo there is an empty one. Raises `OSError`."""
        if self._file is None and not self.count:
            self._file = open(self.folder / shard_name(0), "wb")  # noqa: SIM115
            self._file.seek(HEADER_BYTES)
        if self._file:
            self._end_shard(self.count % self.shard_rows)

    def forget(self) -> None:
        """Remove what another packing would go on from: the pack is complete."""
        for file in self.folder.glob("shard-*"):
            file.unlink()

    def _end_shard(self, rows: int) -> None:
        shape = rows, 3, *self.shape
        if self.kind == JPEG:
            self._file.write(self._ends)
            shape = (self._file.tell() - HEADER_BYTES,)
        self._ends = array("q")
        self._file.seek(0)
        self._file.write(npy_header(np.uint8, shape))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None


def complete(writer: ShardWriter, places: np.ndarray, earlier) -> dict:
    """Complete the shards with the earlier photos, and say for the manifest what is where.

    What lies in whole shards of earlier packs is linked, and takes no room. The rest is copied.
    The order of files: whole shards that were written, those that are linked, the last one.

    places: int64 (N,), the place of each photo of the pack among those of `earlier`, an
        `EarlierPhotos`; -1 for those that the writer has written, in their order.

    Raises `OSError`.
    """
    folder, shard_rows = writer.folder, writer.shard_rows
    used = np.unique(places[places >= 0])
    rows, linked = earlier.link(used, shard_rows, folder)
    decoded, copied = writer.count, rows < 0
    for place in used[copied].tolist():
        writer.add(*earlier.read(place))
    if writer.count or not linked:
        writer.finish()
    whole = writer.count // shard_rows
    written = np.arange(writer.count)
    written[whole * shard_rows :] += linked * shard_rows  # the last file moves behind the links
    if linked and writer.count % shard_rows:
        os.rename(folder / shard_name(whole), folder / shard_name(whole + linked))
    for number in range(linked):
        os.rename(folder / f"linked-{number}.npy", folder / shard_name(whole + number))
    rows[~copied] += whole * shard_rows
    rows[copied] = written[decoded:]
    final = np.empty(len(places), np.int64)
    final[places < 0] = written[:decoded]
    final[places >= 0] = rows[used.searchsorted(places[places >= 0])]
    stored = writer.count + linked * shard_rows
    in_order = bool((final == np.arange(len(final))).all())
    if not in_order:
        write_array(folder / PLACES, final.astype(np.uint32))
    if writer.kind == RAW and in_order and stored == len(final) <= shard_rows:
        return {}  # a pack as that of earlier versions
    of_kind = {} if writer.kind == RAW else {"kind": writer.kind}
    return {"stored": stored, "shard_rows": shard_rows, "in_order": in_order, **of_kind}


def byte_rows(blob: bytes | bytearray, width: int) -> np.ndarray:
    """Cut bytes into rows: uint8 (N, width)."""
    return np.frombuffer(bytes(blob), np.uint8).reshape(-1, width)


def _side_file(folder: Path, number: int, what: str, version: int, kind: str) -> Path:
    """Name what lies beside a whole shard until the pack is complete."""
    of_kind = "" if kind == RAW else f"-{kind}"
    return folder / f"shard-{number:05}-v{version}{of_kind}-{what}.npy"


def read_whole_shards(
    folder: Path, shape: tuple[int, int], version: int, kind: str = RAW
) -> tuple[Shards, np.ndarray, np.ndarray, np.ndarray] | None:
    """Open the whole shards of a packing that was stopped; None if there are none of this kind.

    Gives their photos, digests uint8 (N, 32), stamps uint8 (N, 16), sizes int32 (N, 2).
    """
    rows = rows_of_shard(shape, kind)
    columns = {
        "digests": (np.uint8, (rows, DIGEST_BYTES)),
        "stamps": (np.uint8, (rows, STAMP_BYTES)),
        "sizes": (np.int32, (rows, 2)),
    }
    found = []
    with contextlib.suppress(OSError, ValueError):
        while True:
            number = len(found)
            open_shard(folder / shard_name(number), rows, shape, kind)
            files = (_side_file(folder, number, what, version, kind) for what in columns)
            types = columns.values()
            parts = [StoredArray(file, *type_) for file, type_ in zip(files, types, strict=True)]
            found.append([part.read_all() for part in parts])
    if not found:
        return None
    count = rows * len(found)
    images = Shards(folder, (count, 3, *shape), count, rows, kind=kind)
    return images, *map(np.concatenate, zip(*found, strict=True))


def remove_shards(folder: Path) -> None:
    """Remove the shards of a packing, for example since they have another shape."""
    for file in (*folder.glob("images*.npy"), *folder.glob("shard-*")):
        file.unlink()


def keep_whole_shards(folder: Path) -> int:
    """Remove all but the whole shards of a packing that was stopped; count what stays."""
    whole = {int(file.name[6:11]) for file in folder.glob("shard-*-digests.npy")}
    kept = {shard_name(number) for number in whole}
    for file in folder.iterdir():
        if file.name not in kept and not file.name.startswith("shard-"):
            file.unlink()
    return len(whole)
