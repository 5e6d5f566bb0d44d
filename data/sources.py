"""Find what --data names: a folder, an archive or a known data set."""

from __future__ import annotations

import difflib
import functools
import hashlib
import os
import re
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from byol.errors import UserError, printable
from data.archive_folders import count_archives, read_archives
from data.archives import READ, TAR_SUFFIXES, ZIP_SUFFIXES, count_zip, read_tar, read_zip
from data.decode import fit
from data.download import download
from data.folders import list_folder, read_folder
from data.items import Item, Loaded, Passed
from data.kinds import PassedOver

DATA_DIR = Path(__file__).resolve().parent
KNOWN = ("cats-vs-dogs", "cifar10", "cartoons")

CATS_VS_DOGS = "kagglecatsanddogs_5340.zip"
CATS_VS_DOGS_URL = (
    "https://download.microsoft.com/download/3/E/1/3E1C3F21-ECDB-4869-8368-6DEBA77B919F/"
    + CATS_VS_DOGS
)
CATS_VS_DOGS_SHA256 = "b7974bd00a84a99921f36ee4403f089853777b5ae8d151c76a86e64900334af9"


@dataclass
class Source:
    """Something to pack; `identity` changes when its content does, `place` does not.

    `items()` walks it once. `count()` tells how many items there will be, None if only the
    walk can tell. `passed` is what was passed over before the walk, `empty` names the folders
    without photos. `joined`: made of two sources (see data/labels.py).
    """

    title: str
    place: str
    identity: str
    count: Callable[[], int | None]
    items: Callable[[], Iterable[Item | Passed]]
    passed: PassedOver = field(default_factory=PassedOver)
    empty: list[str] = field(default_factory=list)
    joined: bool = False


def find_source(source: str, progress: bool = True, flag: str = "--data") -> Source:
    """Turn the value of --data or --labelled into a `Source`; raises `UserError` if it is none."""
    if source == "cats-vs-dogs":
        return _path_source(_cats_vs_dogs(progress), inside="PetImages/")
    if source == "cifar10":
        return Source("cifar10", "cifar10", "cifar10:1", lambda: 60_000, _cifar10)
    if source == "cartoons":
        from data import cartoons

        count = cartoons.TRAIN_IMAGES + cartoons.TEST_IMAGES
        identity = f"cartoons:{cartoons.VERSION}:{count}"
        return Source("cartoons", "cartoons", identity, lambda: count, _cartoons)
    path = Path(os.path.expanduser(source))
    if not source or not os.path.exists(path):
        near = difflib.get_close_matches(source.lower(), KNOWN, n=1)
        hint = f"did you mean {near[0]}?" if near else f"give a path or one of {', '.join(KNOWN)}"
        raise UserError(f"{flag} {printable(source)}: no such file or folder; {hint}")
    return _path_source(path, flag=flag)


def _path_source(path: Path, inside: str = "", flag: str = "--data") -> Source:
    path = path.resolve()
    title = re.sub(r"[^\w.-]+", "_", path.name, flags=re.ASCII)[:60] or "photos"
    if path.is_dir():
        return _folder_source(path, title, inside)
    name = path.name.lower()
    info = path.stat()
    identity = f"archive:{path}:{info.st_size}:{info.st_mtime_ns}"
    if name.endswith(ZIP_SUFFIXES):
        count = functools.cache(functools.partial(count_zip, path))
        return Source(title, str(path), identity, count, functools.partial(read_zip, path))
    if name.endswith(TAR_SUFFIXES):
        return Source(title, str(path), identity, lambda: None, functools.partial(read_tar, path))
    raise UserError(
        f"{flag} {printable(str(path))} is no folder and no archive that can be read; "
        f"give a folder or a file ending in {', '.join(READ)}"
    )


def _folder_source(path: Path, title: str, inside: str) -> Source:
    found = list_folder(path, inside)
    files, archives = found.files, found.archives
    listing = "\n".join(f"{f.name}\0{f.size}\0{f.mtime_ns}" for f in [*files, *archives])
    digest = hashlib.sha256(listing.encode("utf-8", "surrogatepass")).hexdigest()

    @functools.cache
    def count() -> int | None:
        inside = count_archives(archives) if archives else 0
        return None if inside is None else len(files) + inside

    def items() -> Iterator[Item | Passed]:
        yield from read_folder(files)
        yield from read_archives(archives)

    identity = f"folder:{path}:{digest}"
    return Source(title, str(path), identity, count, items, found.passed, found.empty)


def _cats_vs_dogs(progress: bool) -> Path:
    for place in (DATA_DIR, *sorted(p for p in DATA_DIR.glob("*") if p.is_dir())):
        for name in (CATS_VS_DOGS, "PetImages"):
            if (place / name).exists():
                return place / name
    return download(CATS_VS_DOGS_URL, CATS_VS_DOGS_SHA256, DATA_DIR / CATS_VS_DOGS, progress)


def _cifar10() -> Iterator[Item]:
    from torchvision.datasets import CIFAR10

    for split in ("train", "test"):
        try:
            part = CIFAR10(str(DATA_DIR), train=split == "train", download=True)
        except Exception as error:  # urllib, tarfile and torchvision each raise their own
            raise UserError(
                f"--data cifar10 cannot be fetched ({printable(str(error))[:120]}); connect to "
                f"the network, put cifar-10-python.tar.gz into {DATA_DIR}, or try --data cartoons"
            ) from error
        for index, (pixels, label) in enumerate(zip(part.data, part.targets, strict=True)):
            name = f"{split}/{part.classes[label]}/{index:05d}"
            yield Item(name, functools.partial(_from_array, name, pixels, pixels.tobytes()))


def _cartoons() -> Iterator[Item]:
    from data import cartoons

    def load(
        split: str, index: int, shape: tuple[int, int], known: Container[bytes] = ()
    ) -> Loaded:
        pixels, label = cartoons.draw(0, index, shape[0])
        name = f"{split}/{cartoons.CLASSES[label]}/{index:05d}"
        return _from_array(name, pixels, f"cartoon {cartoons.VERSION} {index}".encode(), shape)

    for index in range(cartoons.TRAIN_IMAGES + cartoons.TEST_IMAGES):
        split = "train" if index < cartoons.TRAIN_IMAGES else "test"
        # The class, and so the full name, is known once the cartoon is drawn.
        yield Item(f"{split}/{index:05d}", functools.partial(load, split, index))


def _from_array(
    name: str,
    pixels: np.ndarray,
    content: bytes,
    shape: tuple[int, int],
    known: Container[bytes] = (),
) -> Loaded:
    """content: what stands for the file, the same for every stored shape."""
    digest = hashlib.sha256(content).digest()
    if digest in known:
        return Loaded(name, None, 0, 0, digest)
    height, width, _ = pixels.shape
    image = fit(Image.fromarray(pixels), shape, height > width)
    return Loaded(name, image, height, width, digest)
