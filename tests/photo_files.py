"""Small image files for the tests."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from data.stored import StoredArray, write_array


def stored(path: Path, array: np.ndarray) -> StoredArray:
    """The array as one in a .npy file."""
    write_array(path, array)
    return StoredArray(path, array.dtype, array.shape)


def png(seed: int, size: int = 8) -> bytes:
    """A PNG of noise, another one for every seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def pngs(*names: str) -> dict[str, bytes]:
    return {name: png(seed) for seed, name in enumerate(names)}


def pets(per_class: int = 5) -> dict[str, bytes]:
    names = [f"PetImages/{kind}/{i}.png" for kind in ("Cat", "Dog") for i in range(per_class)]
    return pngs(*names)


def write_folder(root: Path, content: dict[str, bytes]) -> Path:
    for name, blob in content.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(blob)
    return root


def write_zip(path: Path, content: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, blob in content.items():
            archive.writestr(name, blob)
    return path


def write_tar(path: Path, content: dict[str, bytes]) -> Path:
    """Compressed by the suffix of `path`."""
    kind = path.suffix.lstrip(".")
    with tarfile.open(path, f"w:{kind}" if kind in ("gz", "xz", "bz2") else "w") as archive:
        for name, blob in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(blob)
            archive.addfile(info, io.BytesIO(blob))
    return path


def cartoon_folder(root: Path, train: int, test: int) -> Path:
    """PNG files of drawings of 40 px in two classes, `root/{train,test}/<class>/<number>.png`."""
    from data.cartoons import CLASSES, draw

    for index in range(train + test):
        pixels, label = draw(7, index, 40)
        path = root / ("train" if index < train else "test") / CLASSES[label] / f"{index:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return root
