"""Photos whose headers claim what they do not hold, and photos that are small when packed."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path

from photo_files import pngs
from PIL import Image

KINDS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")


def encode(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.copy().save(stream, kind, **options)  # a copy: Pillow leaves its settings on the image
    return stream.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_size(blob: bytes, width: int, height: int) -> bytes:
    """The same file with another size in its header, and a checksum that fits."""
    narrow = [min(side, 65_535) for side in (width, height)]
    bad = bytearray(blob)
    if blob[:4] == b"\x89PNG":
        return (
            blob[:8] + chunk(b"IHDR", struct.pack(">II", width, height) + blob[24:29]) + blob[33:]
        )
    if blob[:3] == b"GIF":
        bad[6:10] = struct.pack("<HH", *narrow)
    elif blob[:2] == b"BM":
        bad[18:26] = struct.pack("<II", width, height)
    elif blob[:2] == b"\xff\xd8":
        at = max(blob.find(b"\xff\xc0\x00"), blob.find(b"\xff\xc2\x00"))
        bad[at + 5 : at + 9] = struct.pack(">HH", *narrow[::-1])
    elif blob[:4] == b"RIFF" and blob[12:16] == b"VP8X":  # each side less one, in 24 bits
        sides = ((side - 1) & 0xFFFFFF for side in (width, height))
        bad[24:30] = b"".join(side.to_bytes(3, "little") for side in sides)
    elif blob[12:16] == b"VP8L":
        sides = [(side - 1) & 0x3FFF for side in (width, height)]
        bits = struct.unpack("<I", blob[21:25])[0] >> 28 << 28 | sides[1] << 14 | sides[0]
        bad[21:25] = struct.pack("<I", bits)
    elif blob[:4] == b"RIFF":
        bad[26:30] = struct.pack("<HH", *(side & 0x3FFF for side in narrow))
    elif blob[:4] == b"II*\0":
        at = struct.unpack("<I", blob[4:8])[0] + 2
        for tag, side in enumerate((width, height)):  # these come first
            bad[at + 12 * tag + 2 : at + 12 * tag + 12] = struct.pack("<HII", 4, 1, side)
    return bytes(bad)


def claimed(kind: str, side: int) -> bytes:
    return with_size(encode(Image.new("RGB", (8, 8)), kind), side, side)


def empty_png(width: int, height: int, depth: int, colour: int, row: int) -> bytes:
    """A whole PNG of zeros, `row` bytes for each line; it packs a thousand to one."""
    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(bytes(row + 1)) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(kind, part) for kind, part in ((b"IHDR", header), (b"IDAT", body), (b"IEND", b""))
    )


NAMES = [f"{i}.png" for i in range(30)]


def zip_of(path: Path, content: dict[str, bytes], method: int, claim: int | None = None) -> Path:
    """Good photos and `content` packed by `method`, each claiming to be `claim` bytes long."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, blob in pngs(*NAMES).items():
            archive.writestr(name, blob)
        for name, blob in content.items():
            archive.writestr(name, blob, method)
        for name in content if claim is not None else ():
            archive.getinfo(name).file_size = claim  # written into the directory at the end
    return path
