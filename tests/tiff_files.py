"""TIFF files written by hand, of layouts and tags that Pillow does not write."""

from __future__ import annotations

import struct
import zlib

import numpy as np

BYTE, ASCII, SHORT, LONG = 1, 2, 3, 4
_FORMS = {1: "B", 2: "B", 3: "H", 4: "I", 7: "B", 8: "h", 11: "f"}
_KINDS = {"u": 1, "i": 2, "f": 3}


def tiff(
    pixels: np.ndarray, photometric: int | None, *, packed=False, planes=1, extra=(), tags=()
) -> bytes:
    """A TIFF of (H, W) or (H, W, C) samples in their own byte order.

    packed: deflate the samples
    planes: 2 stores each channel apart
    extra: ExtraSamples
    tags: further (tag, type, values), or (tag, type, count, bytes) as the entry itself has them
    """
    order = ">" if pixels.dtype.byteorder == ">" else "<"
    height, width, *rest = pixels.shape
    channels = rest[0] if rest else 1
    stored = np.moveaxis(pixels, 2, 0) if planes == 2 else pixels
    data = stored.tobytes()
    data = zlib.compress(data) if packed else data
    each = len(data) // channels
    entries = {
        256: (LONG, [width]),
        257: (LONG, [height]),
        258: (SHORT, [pixels.dtype.itemsize * 8] * channels),
        259: (SHORT, [8 if packed else 1]),
        273: (LONG, [8 + each * n for n in range(channels)] if planes == 2 else [8]),
        277: (SHORT, [channels]),
        278: (LONG, [height]),
        279: (LONG, [each] * channels if planes == 2 else [len(data)]),
        284: (SHORT, [planes]),
        339: (SHORT, [_KINDS[pixels.dtype.kind]] * channels),
    }
    if photometric is not None:
        entries[262] = (SHORT, [photometric])
    if extra:
        entries[338] = (SHORT, list(extra))
    entries |= {tag: value for tag, *value in tags}
    data += bytes(len(data) % 2)
    start = 8 + len(data)
    behind = start + 2 + 12 * len(entries) + 4
    directory, values = struct.pack(order + "H", len(entries)), b""
    for tag, (kind, *value) in sorted(entries.items()):
        if len(value) == 2:  # as it is
            count, body = value
        else:
            count, body = (
                len(value[0]),
                struct.pack(f"{order}{len(value[0])}{_FORMS[kind]}", *value[0]),
            )
            if len(body) > 4:
                place = behind + len(values)
                values += body + bytes(len(body) % 2)
                body = struct.pack(order + "I", place)
        directory += struct.pack(order + "HHI", tag, kind, count) + body.ljust(4, b"\0")
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(order + "I", start) + data + directory + bytes(4) + values
