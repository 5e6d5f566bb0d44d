"""Decoding against plain numpy."""

import contextlib
import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from data import decode as module
from data.decode import FORMATS, BadImage, decode


def encode(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def planar(pixels: np.ndarray) -> np.ndarray:
    return pixels.transpose(2, 0, 1)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_formats_keep_every_pixel(kind):
    pixels = noise(16, 16)
    blob = encode(Image.fromarray(pixels), kind, **({"lossless": True} if kind == "WEBP" else {}))
    got, height, width = decode(blob, 16)
    assert got.dtype == np.uint8
    assert got.flags.c_contiguous
    assert (height, width) == (16, 16)
    np.testing.assert_array_equal(got, planar(pixels))


def test_resize_is_pillows_bicubic():
    image = Image.fromarray(noise(40, 60))
    got, height, width = decode(encode(image, "PNG"), 24)
    assert (height, width) == (40, 60)
    want = np.asarray(image.resize((24, 24), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(got, planar(want))


def test_resize_is_antialiased():
    stripes = np.tile(np.array([[[0], [255]]], np.uint8), (64, 32, 3))  # one pixel wide
    got, _, _ = decode(encode(Image.fromarray(stripes), "PNG"), 8)
    assert np.abs(got.astype(int) - 127).max() <= 6


def test_jpeg_matches_pillow():
    blob = encode(Image.fromarray(noise(20, 20)), "JPEG", quality=90)
    want = np.asarray(Image.open(io.BytesIO(blob)))
    np.testing.assert_array_equal(decode(blob, 20)[0], planar(want))


def test_a_large_jpeg_shrinks_to_nearly_the_same_and_keeps_its_size_on_record():
    y, x = np.mgrid[0:900, 0:1200]
    waves = 127 + 60 * np.sin(x / 90) + 60 * np.cos(y / 70)
    image = Image.fromarray(np.repeat(waves.astype(np.uint8)[..., None], 3, 2))
    blob = encode(image, "JPEG", quality=95)
    got, height, width = decode(blob, 48)
    assert (height, width) == (900, 1200)
    want = planar(np.asarray(image.resize((48, 48), Image.Resampling.BICUBIC))).astype(int)
    assert np.abs(got - want).max() <= 5


UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
def test_exif_orientation(orientation, kind):
    blocks = np.kron(noise(3, 3), np.ones((8, 8, 1), np.uint8))
    blocks[:8, 8:] = [250, 10, 10]  # no symmetry left
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    got, _, _ = decode(encode(Image.fromarray(blocks), kind, exif=exif, **options), 24)
    difference = got.astype(int) - planar(UPRIGHT[orientation](blocks))
    assert np.abs(difference).max() <= (4 if kind == "JPEG" else 0)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
def test_orientation_swaps_the_recorded_size(kind):
    exif = Image.Exif()
    exif[0x0112] = 6
    blob = encode(Image.fromarray(noise(200, 300)), kind, exif=exif)
    assert decode(blob, 8)[1:] == (300, 200)


def test_damaged_exif_does_not_spoil_the_picture():
    image = Image.fromarray(np.full((8, 8, 3), 90, np.uint8))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got, _, _ = decode(encode(image, "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff junk"), 8)
    assert np.abs(got.astype(int) - 90).max() <= 2


def test_grey_and_bilevel():
    grey = noise(9, 9, 1)
    got, _, _ = decode(encode(Image.fromarray(grey), "PNG"), 9)
    np.testing.assert_array_equal(got, np.stack([grey] * 3))
    black_white = grey > 127
    got, _, _ = decode(encode(Image.fromarray(black_white), "PNG"), 9)
    np.testing.assert_array_equal(got[0], black_white * 255)


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "<u2"), ("TIFF", "<u2"), ("TIFF", ">u2")])
def test_sixteen_bit_grey_is_scaled_and_not_clipped(kind, mode):
    ramp = np.linspace(0, 65535, 32 * 32).astype(mode).reshape(32, 32)
    got, _, _ = decode(encode(Image.fromarray(ramp), kind), 32)
    assert np.abs(got[0] - ramp / 257).max() <= 1
    assert (got[0].min(), got[0].max()) == (0, 255)
    assert (got[0] == got[2]).all()


def test_dark_sixteen_bit_grey_stays_dark():
    got, _, _ = decode(encode(Image.fromarray(np.full((4, 4), 2570, np.uint16)), "PNG"), 4)
    assert (got == 10).all()


def test_thirty_two_bit_integers_and_floats():
    ramp = np.linspace(0, 65535, 64).astype(np.int32).reshape(8, 8)
    got, _, _ = decode(encode(Image.fromarray(ramp), "TIFF"), 8)
    assert np.abs(got[0] - ramp / 257).max() <= 1
    signed = np.linspace(-5_000_000, 5_000_000, 64).astype(np.int32).reshape(8, 8)
    got, _, _ = decode(encode(Image.fromarray(signed), "TIFF"), 8)
    assert (got[0, 0, 0], got[0, -1, -1]) == (0, 255)
    for top in (1.0, 255.0):
        values = np.linspace(0, top, 64, dtype=np.float32).reshape(8, 8)
        got, _, _ = decode(encode(Image.fromarray(values), "TIFF"), 8)
        assert np.abs(got[0] - values * (255 / top)).max() <= 1


def over_white(rgba: np.ndarray) -> np.ndarray:
    alpha = rgba[..., 3:] / 255
    return rgba[..., :3] * alpha + 255 * (1 - alpha)


def test_alpha_is_laid_over_white():
    rgba = noise(16, 16, 4)
    got, _, _ = decode(encode(Image.fromarray(rgba), "PNG"), 16)
    assert np.abs(got - planar(over_white(rgba))).max() <= 1


def test_grey_with_alpha():
    la = noise(16, 16, 2)
    got, _, _ = decode(encode(Image.fromarray(la, "LA"), "PNG"), 16)
    want = over_white(np.concatenate([np.repeat(la[..., :1], 3, 2), la[..., 1:]], 2))
    assert np.abs(got - planar(want)).max() <= 1


def test_palettes_with_and_without_transparency():
    table = noise(1, 4, 3).reshape(4, 3)
    indices = np.arange(64, dtype=np.uint8).reshape(8, 8) % 4
    image = Image.fromarray(indices, "P")
    image.putpalette(table.tobytes())
    got, _, _ = decode(encode(image, "PNG"), 8)
    np.testing.assert_array_equal(got, planar(table[indices]))
    see_through = table.copy()
    see_through[2] = 255
    for kind in ("PNG", "GIF"):
        got, _, _ = decode(encode(image, kind, transparency=2), 8)
        np.testing.assert_array_equal(got, planar(see_through[indices]))


def test_a_colour_key_of_an_rgb_png_is_white():
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[0] = [1, 2, 3]
    got, _, _ = decode(encode(Image.fromarray(pixels), "PNG", transparency=(1, 2, 3)), 4)
    assert (got[:, 0] == 255).all()
    assert (got[:, 1:] == 0).all()


def test_cmyk():
    cmyk = noise(8, 8, 4)
    got, _, _ = decode(encode(Image.fromarray(cmyk, "CMYK"), "TIFF"), 8)
    ink = 1 - cmyk / 255
    want = 255 * ink[..., :3] * ink[..., 3:]
    assert np.abs(got - planar(want)).max() <= 1
    flat = np.full((16, 16, 4), [200, 30, 90, 40], np.uint8)
    got, _, _ = decode(encode(Image.fromarray(flat, "CMYK"), "JPEG", quality=100), 16)
    want = 255 * (1 - flat[0, 0, :3] / 255) * (1 - 40 / 255)
    assert np.abs(got[:, 8, 8] - want).max() <= 4


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG"])
def test_the_first_frame_counts(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    blob = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    np.testing.assert_array_equal(decode(blob, 8)[0][:, 0, 0], [255, 0, 0])


def test_a_multi_picture_jpeg():
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("white", "black")]
    blob = encode(frames[0], "MPO", save_all=True, append_images=frames[1:])
    assert decode(blob, 16)[0].min() >= 253


def test_empty():
    with pytest.raises(BadImage, match=r"^empty file$"):
        decode(b"", 8)


@pytest.mark.parametrize("blob", [b"hello, I am text", b"\0" * 5000, b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_not_an_image(blob):
    with pytest.raises(BadImage, match="not an image"):
        decode(blob, 8)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
@pytest.mark.filterwarnings("ignore:Truncated File Read")
def test_a_cut_file_is_refused_wherever_it_is_cut(kind):
    blob = encode(Image.fromarray(noise(32, 32)), kind)
    for length in range(1, int(len(blob) * 0.95), max(1, len(blob) // 50)):
        if kind == "TIFF":  # its last bytes may be no pixels
            with contextlib.suppress(BadImage):
                decode(blob[:length], 8)
        else:
            with pytest.raises(BadImage, match=r"^.{1,120}$"):
                decode(blob[:length], 8)


def test_garbled_bytes_raise_nothing_but_bad_image():
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kind in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"):
            blob = encode(Image.fromarray(noise(12, 12)), kind)
            for _ in range(60):
                bad = np.frombuffer(blob, np.uint8).copy()
                at = rng.integers(0, min(len(bad), 300), 4)
                bad[at] = rng.integers(0, 256, 4)
                with contextlib.suppress(BadImage):
                    decode(bad.tobytes(), 8)


def huge_png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = (
        chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    )
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("side", [10_000, 60_000])
@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
def test_a_decompression_bomb_is_refused_before_it_is_loaded(side):
    with pytest.raises(BadImage, match="too many pixels"):
        decode(huge_png(side, side), 8)


@pytest.mark.skipif("AVIF" not in FORMATS, reason="this Pillow does not read AVIF")
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_avif(mode):
    check_a_phone_format("AVIF", mode)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_heic(mode):
    """If pillow-heif is installed, which the project does not need."""
    pytest.importorskip("pillow_heif")
    check_a_phone_format("HEIF", mode)


def check_a_phone_format(kind: str, mode: str) -> None:
    """Nearly the pixels of a PNG, turned the same, and nothing but `BadImage` if it is cut."""
    image = Image.fromarray(np.kron(noise(3, 4), np.ones((16, 16, 1), np.uint8))).convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    for orientation in (1, 3, 6, 7):
        exif = Image.Exif()
        exif[0x0112] = orientation
        blob = encode(image, kind, quality=95, exif=exif.tobytes())
        got, want = decode(blob, 12), decode(encode(image, "PNG", exif=exif), 12)
        assert got[1:] == want[1:]
        assert np.abs(got[0].astype(int) - want[0]).mean() < 6
    blob = encode(image, kind, quality=95)  # the pixels come last
    for length in range(1, len(blob), len(blob) // 10):
        with pytest.raises(BadImage):
            decode(blob[:length], 12)


@pytest.mark.parametrize(
    ("brand", "told"),
    [
        (b"heic", "HEIC needs pillow-heif: pip install pillow-heif, or convert it to JPEG"),
        (b"mif1", "HEIC needs pillow-heif: pip install pillow-heif, or convert it to JPEG"),
        (b"avif", "AVIF needs a newer Pillow, or convert it to JPEG"),
        (b"mp42", "not an image that can be read"),
    ],
)
def test_what_to_do_about_the_formats_of_phones(brand, told, monkeypatch):
    monkeypatch.setattr(module, "FORMATS", ["JPEG", "PNG"])
    with pytest.raises(BadImage, match=f"^{told}$"):
        decode(b"\0\0\0\x18ftyp" + brand + bytes(4) + b"aaaabbbb" + bytes(100), 8)


def test_memory_errors_are_not_the_files_fault(monkeypatch):
    def no_memory(*_, **__):
        raise MemoryError

    monkeypatch.setattr(Image, "open", no_memory)
    with pytest.raises(MemoryError):
        decode(b"x", 8)
