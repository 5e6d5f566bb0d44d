"""Samples of more than 8 bits keep their shades, and white stays white."""

import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from broken_photos import chunk, encode
from PIL import Image
from tiff_files import tiff

from data import deep
from data.decode import BadImage, decode

RAMP = np.arange(4096).reshape(64, 64)  # of 12 bits


@pytest.fixture(autouse=True)
def _no_notes():
    deep.notes()


def shades(blob: bytes, size: int = 64) -> np.ndarray:
    pixels = decode(blob, size)[0]
    assert (pixels[0] == pixels[2]).all()
    return pixels[0]


def png(samples: np.ndarray, colour: int, *chunks: bytes) -> bytes:
    """A PNG of 16 bits, as Pillow writes none but grey."""
    height, width = samples.shape[:2]
    plain = encode(Image.new("L", (1, 1)), "PNG")
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))
    body = (head, *chunks, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return plain[:8] + b"".join(body)


# ---- white is zero ----

KINDS = ("u1", "u2", "u4", "i1", "i2", "i4", "f4")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_tiff_in_which_zero_is_white_is_the_negative_of_one_in_which_it_is_black(
    kind, order, packed
):
    top = {"u1": 255, "i1": 127, "u2": 65_535, "i2": 32_767, "f4": 1.0}.get(kind, 65_535)
    samples = (RAMP / 4095 * top).astype(np.dtype(kind).newbyteorder(order))
    if (kind, order) == ("u4", ">"):
        pytest.skip("Pillow does not read it")
    black, white = (shades(tiff(samples, photo, packed=packed)).astype(int) for photo in (1, 0))
    assert np.abs(black - samples * (255 / top)).max() <= 1
    np.testing.assert_array_equal(white, 255 - black)


def test_a_bilevel_tiff_in_which_zero_is_white():
    for packing in (None, "group4", "tiff_lzw"):
        image = Image.fromarray(RAMP > 2000)
        blob = encode(image, "TIFF", compression=packing, tiffinfo={262: 0})
        want = np.asarray(Image.open(io.BytesIO(blob)).convert("L"))
        np.testing.assert_array_equal(shades(blob), want)


def test_unsigned_values_of_32_bits_are_not_taken_for_negative_ones():
    samples = (RAMP * 1_000_000).astype("<u4")
    assert np.abs(shades(tiff(samples, 1)) - RAMP * 255 / 4095).max() <= 1


def test_signed_bytes_are_not_taken_for_unsigned_ones():
    samples = (RAMP // 16 - 128).astype(np.int8)
    assert np.abs(shades(tiff(samples, 1)) - RAMP // 16).max() <= 1


# ---- fewer bits than the file has room for ----


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
@pytest.mark.parametrize("kind", ["png", "<u2", ">u2", "packed"])
def test_few_bits_are_stretched(bits, kind):
    samples = RAMP * (2**bits - 1) // 4095
    if kind == "png":
        blob = encode(Image.fromarray(samples.astype(np.uint16)), "PNG")
    else:
        packed = kind == "packed"
        blob = tiff(samples.astype(">u2" if packed else kind), 1, packed=packed)
    assert np.abs(shades(blob) - RAMP * 255 / 4095).max() <= 1
    assert deep.notes() == [
        f"stretched images of fewer bits than their files have room for: 1 of {bits} bits"
    ]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("alpha", [None, 4095, 65_535])
def test_colours_of_12_bits_keep_their_shades(order, packed, alpha):
    colours = np.stack([RAMP, RAMP[::-1], RAMP.T], 2)
    want = np.rint(colours * (255 / 4095)).transpose(2, 0, 1)
    extra = ()
    if alpha:
        colours = np.concatenate([colours, np.full((64, 64, 1), alpha)], 2)
        extra = (2,)
    blob = tiff(colours.astype(order + "u2"), 2, packed=packed, extra=extra)
    np.testing.assert_array_equal(decode(blob, 64)[0], want)
    np.testing.assert_array_equal(decode(png(colours, 6 if alpha else 2), 64)[0], want)
    assert deep.notes()[0].endswith(": 2 of 12 bits")


def test_a_large_image_is_stretched_in_blocks(monkeypatch):
    monkeypatch.setattr(deep, "BLOCK", 100)
    test_few_bits_are_stretched(12, "png")
    test_colours_of_12_bits_keep_their_shades("<", True, 4095)


def test_grey_with_alpha_of_16_and_of_12_bits():
    alpha = RAMP.T
    want = 255 - (255 - RAMP * 255 / 4095) * alpha / 4095
    for scale in (1, 16.0037):
        samples = np.rint(np.stack([RAMP, alpha], 2) * scale)
        assert np.abs(shades(png(samples, 4)) - want).max() <= 1
    assert deep.notes()[0].endswith(": 1 of 12 bits")


def test_what_the_file_says_of_its_bits_counts_more_than_a_dark_image():
    dark = (RAMP // 5).astype(np.uint16)  # would fit 10 bits
    said = [
        tiff(dark, 1, tags=[(281, 3, [4095])]),
        tiff(dark, 1, tags=[(341, 3, [3_900])]),
        png(dark, 0, chunk(b"sBIT", b"\x0c")),
    ]
    for blob in said:
        assert np.abs(shades(blob) - dark * (255 / 4095)).max() <= 1
    full = [tiff(dark, 1, tags=[(281, 3, [65_535])]), png(dark, 0, chunk(b"sBIT", b"\x10"))]
    for blob in full:
        np.testing.assert_array_equal(shades(blob), np.rint(dark / 257))
    assert shades(tiff(dark, 1)).max() == np.rint(819 * 255 / 1023)
    colours = np.stack([dark] * 3, 2)
    got = decode(png(colours, 2, chunk(b"sBIT", b"\x10\x10\x10")), 64)[0]
    np.testing.assert_array_equal(got[1], dark >> 8)


def test_a_tiff_of_12_bits_for_each_sample():
    """As its tag says, however dark: two samples in three bytes."""
    dark = (RAMP // 5).reshape(64, 32, 2)
    first, second = dark[..., 0], dark[..., 1]
    triples = [first >> 4, (first & 15) << 4 | second >> 8, second & 255]
    body = np.stack(triples, 2).astype(np.uint8).reshape(64, 96)
    blob = tiff(body, 1, tags=[(256, 4, [64]), (258, 3, [12])])
    assert np.abs(shades(blob) - (RAMP // 5) * (255 / 4095)).max() <= 1
    assert deep.notes() == []


def test_values_of_8_bits_scaled_to_16_stay_dark():
    dark = (RAMP // 100 * 257).astype(np.uint16)
    np.testing.assert_array_equal(shades(tiff(dark, 1)), RAMP // 100)
    assert deep.notes() == []


def test_full_colours_of_16_bits_are_as_before():
    colours = np.random.default_rng(0).integers(0, 65_536, (64, 64, 3))
    want = (colours >> 8).transpose(2, 0, 1)
    np.testing.assert_array_equal(decode(png(colours, 2), 64)[0], want)
    np.testing.assert_array_equal(decode(tiff(colours.astype(">u2"), 2, packed=True), 64)[0], want)


def test_colours_in_planes_of_their_own_are_right_or_refused():
    """Pillow reads noise out of those that are not packed."""
    colours = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    np.testing.assert_array_equal(
        decode(tiff(colours, 2, planes=2), 64)[0], colours.transpose(2, 0, 1)
    )
    with pytest.raises(BadImage, match="planes"):
        decode(tiff(colours.astype("<u2") * 257, 2, planes=2), 64)


def test_one_sentence_for_many_threads():
    blob = encode(Image.fromarray(RAMP.astype(np.uint16)), "PNG")
    narrow = encode(Image.fromarray(RAMP.astype(np.uint16) // 8), "PNG")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda blob: decode(blob, 8), [blob, narrow] * 50))
    (note,) = deep.notes()
    assert note.endswith(": 50 of 10 bits, 50 of 12 bits")
    assert deep.notes() == []


# ---- transparency ----


def test_a_colour_key_is_white_at_any_depth():
    samples = RAMP.astype(np.uint16) * 16
    got = shades(png(samples, 0, chunk(b"tRNS", struct.pack(">H", 160))))
    want = np.rint(samples / 257)
    want[samples == 160] = 255
    np.testing.assert_array_equal(got, want)
    colours = np.stack([samples] * 3, 2)
    got = decode(png(colours, 2, chunk(b"tRNS", struct.pack(">HHH", *[40_000] * 3))), 64)[0]
    assert (got[:, samples == 40_000] == 255).all()
    assert (got[:, samples < 30_000] == (samples >> 8)[samples < 30_000]).all()
    for bits in (1, 2, 4):  # packed rows of one byte
        byte = 0b01000000 if bits == 1 else 1 << 8 - 2 * bits  # 0, 1, 0, ...
        head = chunk(b"IHDR", struct.pack(">IIBBBBB", 8 // bits, 1, bits, 0, 0, 0, 0))
        blob = png(samples, 0)[:8] + head + chunk(b"tRNS", b"\0\1")
        blob += chunk(b"IDAT", zlib.compress(bytes([0, byte]))) + chunk(b"IEND", b"")
        row = decode(blob, 8 // bits)[0][0, 0]
        assert row[1] == 255
        assert row[0] == 0


def test_tiff_grey_with_alpha():
    grey = np.stack([RAMP // 16, RAMP.T // 16], 2).astype(np.uint8)
    want = 255 - (255.0 - grey[..., 0]) * grey[..., 1] / 255
    assert np.abs(shades(tiff(grey, 1, extra=(2,))) - want).max() <= 1
