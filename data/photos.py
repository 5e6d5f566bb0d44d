"""The photos of a source, as they lie in a pack: its files, and how they are opened."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from byol.errors import UserError, printable
from byol.files import same_names, same_photos
from data.cache import read_manifest
from data.classes import RULES, describe
from data.kinds import PassedOver
from data.labels import digest_of
from data.shape import describe_shape, stored_shape
from data.shards import DIGEST_BYTES, RAW, Shards, image_files, kind_of, open_images
from data.stored import StoredArray, read_texts

PACK_VERSION = 3  # raise it whenever decoding, names or the files below change
FILES = (  # of a pack, beside manifest.json and the further files of images
    "images.npy",
    "labels.npy",
    "is_test.npy",
    "sizes.npy",
    "digests.npy",
    "by_name.npy",
    "names.npy",
    "names_ends.npy",
    "skipped.npy",
    "skipped_ends.npy",
    "skipped.txt",  # the same for people
)


@dataclass
class Photos:
    """All usable images of a source at one size, from its pack.

    images: uint8 (N, 3, H, W), RGB planes, read from their files row by row, and decoded if they
        are stored as JPEGs; if W is above H, photos that are taller than wide are transposed
    names: '/'-separated path of each image inside the source
    labels: int64 (N,), an index into `classes`, -1 if the image has no class
    classes: sorted class names
    is_test: bool (N,), True if the image belongs to a test split of the source
    sizes: int32 (N, 2), original height and width in pixels, upright
    skipped: (name, reason) of each file that could not be used
    source: what was asked for
    fingerprint: SHA-256 over the sorted names, "-", and SHA-256 over the digests in this order; the
        same on every machine and in every stored shape
    by_name: int64 (N,), all rows in the order of their names
    digests: uint8 (N, 32), SHA-256 of each image's file
    test_folders: the folders whose images are for the test, with their numbers
    passed: what else was found, and is no photo
    empty: folders in which there is no photo
    notes: sentences on folders that may be meant otherwise
    groups: int64 (N,), photos of one number belong together (--group-by); None without groups
    """

    images: StoredArray | Shards
    names: Sequence[str]
    labels: np.ndarray
    classes: list[str]
    is_test: np.ndarray
    sizes: np.ndarray
    skipped: Sequence[tuple[str, str]]
    source: str
    fingerprint: str
    by_name: np.ndarray
    digests: StoredArray | None = None
    test_folders: dict[str, int] = field(default_factory=dict)
    passed: PassedOver = field(default_factory=PassedOver)
    empty: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    groups: np.ndarray | None = None
    rules: int = RULES  # by which the labels were read

    @property
    def folder(self) -> Path:
        """The folder of the pack."""
        return self.images.path.parent

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the stored photos."""
        return self.images.shape[2:]

    def describe_shape(self) -> str:
        """Write the stored shape in pixels, as "180" or "180 x 320"."""
        return describe_shape(self.shape)

    @property
    def label_digest(self) -> str:
        """A hash of all labels, which says whether they are as they were."""
        return digest_of(self)

    def describe_classes(self) -> str:
        """Write the line of a banner on classes, test folders, and what was passed over."""
        empty = f"; no photos in {printable(', '.join(self.empty[:3]))}" if self.empty else ""
        empty += f" and {len(self.empty) - 3:,} more folders" if len(self.empty) > 3 else ""
        passed = f"passed over: {self.passed}" if self.passed else "nothing passed over"
        return f"classes     {describe(self)}{empty}; {passed}"

    def describe_lack(self) -> str:
        """Say why there are fewer than two classes."""
        around = os.path.commonpath([name.rpartition("/")[0] or "." for name in self.names])
        parts = [f"{len(self.classes)} class folders"]
        if self.classes:
            parts = [f"one class alone, {printable(self.classes[0])}"]
        elif around not in ("", "."):
            parts.append(f"all of its photos are in {printable(around)}")
        if self.empty:
            parts.append(f"there are no photos in {printable(', '.join(self.empty[:3]))}")
        if self.passed:
            parts.append(f"passed over were {self.passed}")
        return "; ".join(parts)

    def is_known_as(self, fingerprint: str) -> bool:
        """Tell whether these are the photos that a run knew by this fingerprint.

        Earlier versions knew photos by their names alone.
        """
        return same_photos(fingerprint, self.fingerprint)

    def has_names_of(self, fingerprint: str) -> bool:
        """Tell whether a run knew photos of just these names, which is all that a split needs."""
        return same_names(fingerprint, self.fingerprint)


def key_of(*texts: str) -> str:
    """Make a name of a pack or of a listing, from all that decides what is in it."""
    text = "\n".join((str(PACK_VERSION), *texts))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def open_whole(packs: Iterator[Path], source: str, store_size: int, kind: str) -> Iterator[Photos]:
    """Open one after the other of the packs that are whole."""
    return filter(None, (open_pack(pack, source, store_size, kind) for pack in packs))


def open_pack(folder: Path, source: str, store_size: int, kind: str = RAW) -> Photos | None:
    """Open the pack in `folder`; None if there is none of this size and kind or it is damaged."""
    try:
        manifest = read_manifest(folder)
        if (manifest["version"], manifest["store_size"]) != (PACK_VERSION, store_size):
            return None
        if kind_of(manifest) != kind:
            return None
        n = manifest["count"]
        for name in {*FILES, *image_files(manifest)}:
            if (folder / name).stat().st_size != manifest["bytes"][name]:
                return None
        sizes = StoredArray(folder / "sizes.npy", np.int32, (n, 2)).read_all()
        # Earlier versions stored long photos as squares too: that is no array of this shape.
        shape = (n, 3, *stored_shape(sizes, store_size))
        return Photos(
            images=open_images(folder, shape, manifest),
            names=read_texts(folder, "names", n),
            labels=StoredArray(folder / "labels.npy", np.int64, (n,)).read_all(),
            classes=manifest["classes"],
            is_test=StoredArray(folder / "is_test.npy", np.bool_, (n,)).read_all(),
            sizes=sizes,
            skipped=read_texts(folder, "skipped", manifest["skipped"], 2),
            source=source,
            fingerprint=manifest["fingerprint"],
            by_name=StoredArray(folder / "by_name.npy", np.int64, (n,)).read_all(),
            digests=StoredArray(folder / "digests.npy", np.uint8, (n, DIGEST_BYTES)),
            test_folders=dict(manifest["test_folders"]),
            notes=list(manifest["notes"]),
            rules=manifest.get("rules", 1),
        )
    except (UserError, OSError, ValueError, KeyError, TypeError):
        return None
