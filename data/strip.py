"""Leave out of an image file what its pixels do not need, before a decoder sees it.

Text, profiles, comments and odd tags make Pillow refuse a picture that a browser shows, or take
its time and memory. What matters of them, the orientation and the depth of the values, is read
here.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

EXIF_ORIENTATION = 0x0112
XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
# EXIF or XMP in the list of items of AVIF and HEIC, which say themselves how they are turned.
HIDDEN_ITEM = re.compile(rb"(infe(?:\x02.{7}|\x03.{9}))(?:Exif|mime)", re.DOTALL)
MAX_TEXT = 1 << 20  # bytes of one unpacked text
PNG_READ = (b"tRNS", b"eXIf", b"sBIT", b"tEXt", b"zTXt", b"iTXt")
TIFF_NUMBERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}  # field type -> how struct reads it
TIFF_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
TIFF_BYTES |= {16: 8, 17: 8, 18: 8}
MAX_VALUES = 4_000_000  # of one tag; the longest has two for each row and plane
BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, PLANES, SAMPLE_FORMAT = 258, 259, 262, 277, 284, 339
CCITT = (2, 3, 4)  # compressions of fax
LARGEST = (281, 341)  # MaxSampleValue, SMaxSampleValue
PIXEL_TAGS = {
    *(256, 257, BITS, COMPRESSION, PHOTOMETRIC, 266, 273, SAMPLES, 278, 279, PLANES),
    *(292, 293, 317, 320, 322, 323, 324, 325, 332, 338, SAMPLE_FORMAT, 347, *range(512, 522)),
    *(529, 530, 531, 532, 50674),
}


class Stripped(NamedTuple):
    """A file that holds the same pixels, and what was read of the rest.

    orientation: of EXIF or XMP; 0 if neither is here
    largest: the largest value that a sample is said to have; 0 if nothing is said
    negative: 0 means white, which the new file does not say
    grey_alpha: a PNG of 16-bit grey and alpha became one of 8-bit RGBA: the high and the low byte
        of grey, then those of alpha
    row_by_row: a JPEG whose rows can be decoded one after the other
    """

    blob: bytes
    orientation: int = 0
    largest: int = 0
    negative: bool = False
    grey_alpha: bool = False
    row_by_row: bool = False


def strip(blob: bytes) -> Stripped:
    """Strip one file; what cannot be followed, or is of another format, stays as it is."""
    try:
        if blob[:3] == b"\xff\xd8\xff":
            return _strip_jpeg(blob)
        if blob[:8] == b"\x89PNG\r\n\x1a\n":
            return _strip_png(blob)
        if blob[:6] in (b"GIF87a", b"GIF89a"):
            return _strip_gif(blob)
        if blob[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return _strip_tiff(blob)
        if blob[4:8] == b"ftyp":
            return Stripped(HIDDEN_ITEM.sub(rb"\1free", blob))
    except (struct.error, IndexError):  # it ends too early
        pass
    return Stripped(blob)


def orientation(exif: bytes, xmp: bytes = b"") -> int:
    """Read the orientation of EXIF data, else of XMP; 0 if it is absent or damaged."""
    if not exif and not xmp:
        return 0
    try:
        exif = re.sub(rb"^(Exif\0\0){1,2}", b"", exif)
        order = {b"II": "<", b"MM": ">"}[exif[:2]]
        (start,) = struct.unpack_from(order + "I", exif, 4)
        for entry in _entries(exif, start, order, False):
            if entry.tag == EXIF_ORIENTATION:
                return _number(exif, entry, order)
    except (struct.error, KeyError):
        pass
    found = XMP_ORIENTATION.search(xmp)
    return int(found[1]) if found else 0


# ---- JPEG ----


def _strip_jpeg(blob: bytes) -> Stripped:
    view = memoryview(blob)
    kept, exif, xmp = [view[:2]], [], b""
    at, components, row_by_row = 2, -1, False
    while blob[at] == 0xFF:
        marker = blob[at + 1]
        if marker == 0xFF:  # padding
            at += 1
            continue
        (length,) = struct.unpack_from(">H", blob, at + 2)
        body = blob[at + 4 : at + 2 + length]
        if marker == 0xDA:  # the first scan: rows can be decoded if it holds all components
            row_by_row = body[0] == components
            break
        if not 0xC0 <= marker <= 0xFE or 0xD0 <= marker <= 0xD9 or length < 2:
            break
        if marker in (0xC0, 0xC1):  # a sequential frame
            components = body[5]
        if marker == 0xE1 and body[:6] == b"Exif\0\0":
            exif.append(body[6:])
        elif marker == 0xE1 and body[:29] == b"http://ns.adobe.com/xap/1.0/\0":
            xmp = body[29:]
        jfif = marker == 0xE0 and body[:4] == b"JFIF" and len(body) >= 14
        adobe = marker == 0xEE and body[:5] == b"Adobe" and len(body) >= 12
        if jfif or adobe or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            kept.append(view[at : at + 2 + length])
        at += 2 + length
    kept.append(view[at:])
    turned = orientation(b"".join(exif), xmp)
    return Stripped(b"".join(kept), turned, row_by_row=row_by_row)


# ---- PNG ----


def _strip_png(blob: bytes) -> Stripped:
    """Keep the critical chunks and the transparency. A damaged chunk that is not critical goes."""
    view = memoryview(blob)
    kept, exif, xmp = [view[:8]], b"", b""
    at, depth, colour, largest, grey_alpha = 8, 8, 2, 0, False
    while at + 8 <= len(blob):
        length, kind = struct.unpack_from(">I4s", blob, at)
        chunk, body = view[at : at + 12 + length], view[at + 8 : at + 8 + length]
        at += 12 + length
        if not kind[0] & 32:
            if kind == b"IHDR" and _is_sound(chunk):
                depth, colour = body[8], body[9]
                if (depth, colour) == (16, 4):
                    chunk = _chunk(b"IHDR", bytes([*body[:8], 8, 6, *body[10:]]))
                    grey_alpha = True
            kept.append(chunk)
        elif kind in PNG_READ and _is_sound(chunk):
            if kind == b"tRNS":
                kept.append(_chunk(kind, _colour_key(bytes(body), depth, colour)))
            elif kind == b"eXIf":
                exif = bytes(body)
            elif kind == b"sBIT":
                largest = (1 << min(max(body, default=0), 16)) - 1
            else:
                key, value = _text(kind, bytes(body))
                if key == b"Raw profile type exif":
                    exif = exif or _unhex(value)
                elif key == b"XML:com.adobe.xmp":
                    xmp = value
        if kind == b"IEND":
            break
    return Stripped(b"".join(kept), orientation(exif, xmp), largest, grey_alpha=grey_alpha)


def _is_sound(chunk: memoryview) -> bool:
    return len(chunk) >= 12 and zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _colour_key(body: bytes, depth: int, colour: int) -> bytes:
    """Give the colour that means transparent as Pillow has it once it is unpacked to 8 bits."""
    if colour == 0 and depth in (2, 4) and len(body) >= 2:
        return struct.pack(">H", body[1] * 255 // (2**depth - 1) & 255)
    if colour == 2 and depth == 16 and len(body) >= 6:
        return bytes([0, body[0], 0, body[2], 0, body[4]])
    return body


def _text(kind: bytes, body: bytes) -> tuple[bytes, bytes]:
    """Split a text chunk into key and value, of which no more than `MAX_TEXT` are unpacked."""
    key, _, rest = body.partition(b"\0")
    packed = kind == b"zTXt"
    if kind == b"iTXt":
        packed, rest = rest[:1] == b"\1", rest[1:].split(b"\0", 2)[-1]
    if packed:
        rest = rest[1:] if kind == b"zTXt" else rest
        try:
            rest = zlib.decompressobj().decompress(rest, MAX_TEXT)
        except zlib.error:
            rest = b""
    return key, rest


def _unhex(text: bytes) -> bytes:
    """Read EXIF data as ImageMagick writes it into a text: three lines, then digits."""
    try:
        return bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii"))
    except ValueError:
        return b""


# ---- GIF ----


def _strip_gif(blob: bytes) -> Stripped:
    """Keep of what stands before the first frame only how that frame is drawn."""
    at = 13 + (3 * (2 << (blob[10] & 7)) if blob[10] & 128 else 0)
    kept = [blob[:at]]
    while blob[at] == 0x21:
        start, label = at, blob[at + 1]
        at += 2
        control = label == 0xF9 and blob[at] == 4
        while blob[at]:
            at += 1 + blob[at]
        at += 1
        if control:
            kept.append(blob[start:at])
    return Stripped(b"".join([*kept, blob[at:]]))


# ---- TIFF ----


class _Entry(NamedTuple):
    """One entry of a directory: `at` is the place of its value, `raw` all its bytes."""

    tag: int
    kind: int
    count: int
    at: int
    raw: bytes


def _entries(blob: bytes, start: int, order: str, big: bool) -> Iterator[_Entry]:
    """Walk the directory at `start`; values that lie outside the file are passed over."""
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), blob, start)
    form, offset, step, room = ("HHQ", "Q", 20, 8) if big else ("HHI", "I", 12, 4)
    first = start + (8 if big else 2)
    for place in range(first, first + min(count, 65_535) * step, step):
        tag, kind, values = struct.unpack_from(order + form, blob, place)
        at = place + step - room
        size = values * TIFF_BYTES.get(kind, 0)
        if size > room:
            (at,) = struct.unpack_from(order + offset, blob, at)
        if size > 0 and values <= MAX_VALUES and at + size <= len(blob):
            yield _Entry(tag, kind, values, at, blob[place : place + step])


def _number(blob: bytes, entry: _Entry, order: str) -> int:
    """The largest of its values; 0 if it has none that are whole numbers."""
    form = TIFF_NUMBERS.get(entry.kind)
    if form is None:
        return 0
    return max(struct.unpack_from(f"{order}{min(entry.count, 16)}{form}", blob, entry.at))


def _strip_tiff(blob: bytes) -> Stripped:
    """Write a new directory of the first image, of the tags that say where and what pixels are."""
    order, big = {b"I": "<", b"M": ">"}[blob[:1]], b"+" in blob[2:4]
    offset = "Q" if big else "I"
    (start,) = struct.unpack_from(order + offset, blob, 8 if big else 4)
    kept: dict[int, bytes] = {}
    said: dict[int, int] = {}
    for entry in _entries(blob, start, order, big):
        if entry.tag not in said:
            said[entry.tag] = _number(blob, entry, order)
            if entry.tag in PIXEL_TAGS:
                kept[entry.tag] = entry.raw
    bits, photometric = said.get(BITS, 1), said.get(PHOTOMETRIC)
    if photometric is None and said.get(COMPRESSION) not in CCITT:
        photometric = 2 if said.get(SAMPLES, 1) >= 3 else 1  # as libtiff takes it
        kept[PHOTOMETRIC] = _short(PHOTOMETRIC, photometric, order, big)
    negative = photometric == 0 and (bits > 8 or said.get(SAMPLE_FORMAT) == 2)
    if negative:  # Pillow knows it of unsigned values of 8 bits and fewer
        kept[PHOTOMETRIC] = _short(PHOTOMETRIC, 1, order, big)
    largest = max(said.get(tag, 0) for tag in LARGEST)
    if 8 < bits < 16:
        largest = (1 << bits) - 1
    directory = struct.pack(order + ("Q" if big else "H"), len(kept))
    directory += b"".join(kept[tag] for tag in sorted(kept)) + bytes(8 if big else 4)
    at = len(blob) + len(blob) % 2
    head = blob[: 8 if big else 4] + struct.pack(order + offset, at)
    new = b"".join([head, memoryview(blob)[len(head) :], bytes(at - len(blob)), directory])
    return Stripped(new, said.get(EXIF_ORIENTATION, 0), largest, negative)


def _short(tag: int, value: int, order: str, big: bool) -> bytes:
    return struct.pack(order + ("HHQH6x" if big else "HHIH2x"), tag, 3, 1, value)
