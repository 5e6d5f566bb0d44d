"""Metadata that is not used never refuses a picture, nor changes it."""

import io
import re
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from broken_photos import chunk, encode
from PIL import Image
from tiff_files import tiff

from data.cartoons import draw
from data.decode import FORMATS, decode
from data.strip import orientation, strip

DRAWING = Image.fromarray(draw(3, 1, 32)[0])
PNG, JPEG, GIF = (encode(DRAWING, kind) for kind in ("PNG", "JPEG", "GIF"))
TWO_MEGABYTES = zlib.compress(bytes(2_000_000))
PNG_CHUNKS = "gAMA cHRM sRGB pHYs iCCP tEXt zTXt iTXt eXIf sBIT bKGD hIST tIME acTL fcTL fdAT caBX"
ODD_BYTES = (b"", b"\0", b"abc", b"\xff" * 40, bytes(60_000))


def turned(order: str = "<", value: int = 6) -> bytes:
    """EXIF data with an orientation."""
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", 8)
    return head + struct.pack(order + "HHHIHHI", 1, 0x0112, 3, 1, value, 0, 0)


def same(blob: bytes, as_blob: bytes) -> bool:
    got, want = decode(blob, 16), decode(as_blob, 16)
    return got[1:] == want[1:] and (got[0] == want[0]).all()


# ---- PNG ----


def png_with(*chunks: bytes, last: bool = False) -> bytes:
    at = len(PNG) - 12 if last else 33
    return PNG[:at] + b"".join(chunks) + PNG[at:]


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (b"zTXt", b"Comment\0\0" + TWO_MEGABYTES),
        (b"zTXt", b"Comment\0\1" + TWO_MEGABYTES),
        (b"iTXt", b"Comment\0\1\0\0\0" + TWO_MEGABYTES),
        (b"iCCP", b"profile\0\0" + TWO_MEGABYTES),
        (b"iCCP", b"profile\0\1" + TWO_MEGABYTES),
    ],
    ids=["zTXt", "zTXt of an unknown packing", "iTXt", "iCCP", "iCCP of an unknown packing"],
)
def test_a_png_with_much_text(kind, body, last):
    assert same(png_with(chunk(kind, body), last=last), PNG)


def test_a_png_with_seventy_megabytes_of_text():
    assert same(png_with(chunk(b"tEXt", b"Comment\0" + b"x" * 70_000_000)), PNG)


@pytest.mark.parametrize("kind", PNG_CHUNKS.split())
def test_a_png_with_odd_or_damaged_chunks(kind):
    for body in ODD_BYTES:
        good = chunk(kind.encode(), body)
        for odd in (good, good[:-4] + b"abcd"):  # with a wrong checksum, as browsers allow
            assert same(png_with(odd), PNG)


def test_a_png_whose_animation_is_out_of_order():
    control = struct.pack(">IIIIIHHBB", 7, 99, 99, 0, 0, 1, 1, 0, 0)
    assert same(png_with(chunk(b"acTL", bytes(8)), chunk(b"fcTL", control)), PNG)


def test_text_that_says_how_a_png_is_turned():
    """As ImageMagick wrote EXIF data before PNG had a chunk for them, and as XMP says it."""
    digits = b"\nexif\n      32\n" + (b"Exif\0\0" + turned()).hex().encode() + b"\n"
    xmp = b"XML:com.adobe.xmp\0\0\0\0\0" + b'<x tiff:Orientation="6"/>'
    want = decode(png_with(chunk(b"eXIf", turned())), 32)[0]
    assert (want == np.rot90(decode(PNG, 32)[0], -1, (1, 2))).all()
    for odd in (
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(digits)),
        chunk(b"tEXt", b"Raw profile type exif\0" + digits),
        chunk(b"iTXt", xmp),
    ):
        assert (decode(png_with(odd), 32)[0] == want).all()


# ---- JPEG ----


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def jpeg_with(*segments: bytes) -> bytes:
    return JPEG[:2] + b"".join(segments) + JPEG[2:]


NAMES = (b"JFIF", b"JFIF\0", b"Adobe", b"Adobe\0\0", b"Exif\0\0", b"MPF\0", b"FPXR\0")
NAMES += (b"ICC_PROFILE\0", b"ICC_PROFILE\0\1\5", b"http://ns.adobe.com/xap/1.0/\0")


@pytest.mark.parametrize("marker", [*range(0xE0, 0xF0), 0xFE])
def test_a_jpeg_with_odd_segments(marker):
    for name in (*NAMES, b"Photoshop 3.0\x008BIM\3\xed"):
        for body in ODD_BYTES:
            assert same(jpeg_with(segment(marker, name + body)), JPEG)


def test_a_jpeg_with_fifty_megabytes_of_exif_takes_no_longer_for_them():
    """Pillow, which joins the segments one by one, took 20 s."""
    blob = jpeg_with(*[segment(0xE1, b"Exif\0\0" + bytes(65_000))] * 800)
    started = time.process_time()
    assert same(blob, JPEG)
    assert time.process_time() - started < 2


def test_exif_in_two_segments_and_xmp_turn_a_jpeg():
    parts = [b"Exif\0\0" + turned()[:20], b"Exif\0\0" + turned()[20:]]
    want = decode(jpeg_with(segment(0xE1, b"Exif\0\0" + turned())), 16)[0]
    assert (want != decode(JPEG, 16)[0]).any()
    assert (decode(jpeg_with(*[segment(0xE1, part) for part in parts]), 16)[0] == want).all()
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="6"/>'
    assert (decode(jpeg_with(segment(0xE1, xmp)), 16)[0] == want).all()


# ---- GIF, WebP, AVIF ----


def test_a_gif_with_odd_blocks():
    at = 13 + 3 * (2 << (GIF[10] & 7))

    def block(label: int, *parts: bytes) -> bytes:
        return b"!" + bytes([label]) + b"".join(bytes([len(p)]) + p for p in parts) + b"\0"

    for odd in (
        block(0xFE, *[b"x" * 255] * 20_000),
        block(0xFE, b"x") * 10_000,
        *(block(label) for label in (0, 1, 0xCE, 0xF9, 0xFE, 0xFF)),
        *(block(label, b"a") for label in (0, 1, 0xCE, 0xF9, 0xFE, 0xFF)),
        block(0xFF, b"NETSCAPE2.0"),
        block(0xFF, b"XMP DataXMP", bytes(200)),
    ):
        assert same(GIF[:at] + odd + GIF[at:], GIF)


@pytest.mark.parametrize("exif", [b"", b"junk", b"II*\0\xff\xff\xff\xff", bytes(100_000)])
def test_a_webp_with_odd_exif(exif):
    plain = encode(DRAWING, "WEBP", lossless=True)
    assert same(encode(DRAWING, "WEBP", lossless=True, exif=exif, xmp=exif), plain)


@pytest.mark.skipif("AVIF" not in FORMATS, reason="this Pillow does not read AVIF")
def test_an_avif_with_odd_exif():
    exif = Image.Exif()
    exif[0x010E] = "a long description"
    blob = encode(DRAWING, "AVIF", exif=exif.tobytes())
    found = re.search(rb"(MM\0\*|II\*\0).*a long description", blob, re.DOTALL)
    for odd in (b"\0", b"\xff", b"junk"):
        body = (odd * 100)[: len(found[0])]
        assert same(blob[: found.start()] + body + blob[found.end() :], encode(DRAWING, "AVIF"))


# ---- TIFF ----

TIFF_TAGS = (254, 255, 269, 270, 274, 280, 281, 282, 283, 285, 296, 305, 306, 330, 333, 336, 340)
TIFF_TAGS += (341, 700, 33432, 33723, 34377, 34665, 34675, 34853, 37510, 40965, 50838, 65000)


@pytest.mark.parametrize(("order", "packed"), [("<", False), (">", True)])
def test_a_tiff_with_odd_tags(order, packed):
    """Of each type, of no values, of few and of more than the file has."""
    pixels = np.arange(48, dtype=order + "u2").reshape(4, 4, 3) * 1365
    plain = tiff(pixels, 2, packed=packed)
    for tag in TIFF_TAGS:
        for kind in (0, 1, 2, 3, 5, 7, 11, 16):
            for count, body in ((0, b""), (1, b"AB"), (9, b"\0\0\0\x08"), (2**32 - 1, b"\xff" * 4)):
                if (tag, kind, count) == (274, 1, 1):
                    continue
                odd = tiff(pixels, 2, packed=packed, tags=[(tag, kind, count, body)])
                assert same(odd, plain), (tag, kind, count)


def test_a_tiff_of_many_large_tags_takes_no_memory_for_them():
    pixels = np.zeros((500, 1000, 3), np.uint8)
    tags = [(40_000 + n, 7, 1_400_000, struct.pack("<I", 8)) for n in range(2_000)]
    blob = tiff(pixels, 2, tags=tags)
    tracemalloc.start()
    assert decode(blob, 8)[0].max() == 0
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_is_turned_by_its_tag(order):
    pixels = np.arange(64, dtype=order + "u2").reshape(8, 8) * 1040
    got = decode(tiff(pixels, 1, tags=[(274, 3, [6])]), 8)[0][0]
    np.testing.assert_array_equal(got, np.rint(np.rot90(pixels, -1) / 257))


def test_a_tiff_that_does_not_say_what_is_white():
    """libtiff takes 0 for black then, and three channels for colours."""
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    np.testing.assert_array_equal(decode(tiff(grey, None), 8)[0][0], grey)
    colours = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    np.testing.assert_array_equal(decode(tiff(colours, None), 8)[0], colours.transpose(2, 0, 1))


def test_a_bigtiff():
    blob = encode(DRAWING, "TIFF", big_tiff=True)
    assert blob[:4] == b"II+\0"
    exif = Image.Exif()
    exif[0x0112] = 6
    assert same(blob, PNG)
    got = decode(encode(DRAWING, "TIFF", big_tiff=True, exif=exif), 32)[0]
    assert (got == np.rot90(decode(PNG, 32)[0], -1, (1, 2))).all()


# ---- all ----


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_orientation_is_what_pillow_reads(order):
    for value in range(1, 9):
        exif = turned(order, value)
        image = Image.open(io.BytesIO(jpeg_with(segment(0xE1, b"Exif\0\0" + exif))))
        assert orientation(exif) == image.getexif()[0x0112] == value
    for cut in range(len(turned()) - 6):
        assert orientation(turned()[:cut]) == 0


def test_a_plain_file_is_handed_on_as_it_is():
    others = [encode(DRAWING, kind) for kind in ("WEBP", "BMP")]
    for blob in (PNG, GIF, JPEG, *others, b"", b"\xff\xd8\xff"):
        assert strip(blob).blob == blob


def test_no_remark_of_pillow_reaches_the_user(tmp_path):
    """A size at which Pillow warns, EXIF that it calls corrupt, a palette that it would change."""
    palette = DRAWING.quantize(8)
    blobs = [
        encode(Image.new("1", (9_500, 9_500)), "PNG"),
        encode(palette, "PNG", transparency=bytes(8)),
        encode(DRAWING, "WEBP", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\0"),
        tiff(np.zeros((4, 4), np.uint8), 1)[:-9],
        encode(Image.new("L", (9_500, 9_500)), "JPEG"),
    ]
    code = "import sys\nfrom data.decode import BadImage, decode\nfor path in sys.argv[1:]:\n"
    code += " try: decode(open(path, 'rb').read(), 8)\n except BadImage as e: print(e)"
    paths = [tmp_path / str(number) for number in range(len(blobs))]
    for path, blob in zip(paths, blobs, strict=True):
        path.write_bytes(blob)
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == "too many pixels (9500 x 9500)"
