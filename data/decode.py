"""Turn the bytes of one image file into a square 8-bit RGB array."""

from __future__ import annotations

import contextlib
import io

import numpy as np

# Importing the plug-ins here registers them before any thread decodes.
from PIL import (  # noqa: F401
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from data.room import Room, give_back_memory

FORMATS = ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"]  # multi-picture JPEG opens as JPEG
EXIF_ORIENTATION = 0x0112
MAX_SIDE = 500_000  # the resize needs a table as long as the longest side
MAX_SCANS = 1_000  # of a progressive JPEG, which has about ten; each runs over all pixels
# How many pixels are decoded at once, whatever the number of threads: as many as the largest image
# may have, for which Pillow takes up to 1.5 GB.
_room = Room(1024**3 // 4 // 3)
SMALL = 500_000  # pixels that need not ask, since that takes time
LARGE = 4_000_000  # pixels, of which the memory is given back to the system at once
BLOCK = 1 << 20  # pixels
_T = Image.Transpose
# How to bring an image with this EXIF orientation upright.
UPRIGHT = {
    2: _T.FLIP_LEFT_RIGHT,
    3: _T.ROTATE_180,
    4: _T.FLIP_TOP_BOTTOM,
    5: _T.TRANSPOSE,
    6: _T.ROTATE_270,
    7: _T.TRANSVERSE,
    8: _T.ROTATE_90,
}


class BadImage(Exception):
    """This file cannot be used; the text is a short reason."""


def decode(blob: bytes, size: int) -> tuple[np.ndarray, int, int]:
    """Decode one image file and squash it to `size` x `size` pixels.

    The first frame counts. The image is turned upright by its EXIF tag, transparency is laid
    over white, and every colour mode becomes 8-bit RGB.

    Returns the pixels, uint8 (3, size, size), contiguous, and the original height and width in
    pixels, upright. Raises `BadImage` for whatever is not a whole, sane image, and
    `MemoryError`.
    """
    if not blob:
        raise BadImage("empty file")
    try:
        return _decode(blob, size)
    except (BadImage, MemoryError):
        raise
    except UnidentifiedImageError:
        if blob[4:8] == b"ftyp":  # the box that HEIC, HEIF and AVIF begin with
            raise BadImage("HEIC and AVIF are not read, convert it to JPEG") from None
        raise BadImage("not an image that can be read") from None
    except Image.DecompressionBombError:
        raise BadImage("too many pixels") from None
    except Exception as error:  # Pillow's decoders raise nearly every kind
        width, height = _webp_size(blob)  # its errors do not tell whether memory was lacking
        np.empty(12 * width * height, np.uint8)
        raise BadImage(f"cannot be decoded: {str(error)[:80] or type(error).__name__}") from error


def fit(image: Image.Image, size: int) -> np.ndarray:
    """Squash an RGB image to uint8 (3, size, size), antialiased; no change if it fits."""
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    pixels = np.asarray(image)
    planes = np.empty((3, size, size), np.uint8)
    for channel in range(3):  # faster than one transposing copy
        planes[channel] = pixels[..., channel]
    return planes


def _decode(blob: bytes, size: int) -> tuple[np.ndarray, int, int]:
    width, height = _webp_size(blob)
    _check_pixels(width, height)  # Pillow would take 8 bytes for each before it looks
    of_webp = width * height
    with _room_for(of_webp), Image.open(io.BytesIO(blob), formats=FORMATS) as image:
        width, height = image.size
        _check_pixels(width, height)
        if max(width, height) > MAX_SIDE:
            raise BadImage(f"too long a side ({width} x {height})")
        if image.info.get("progressive") and blob.count(b"\xff\xda") > MAX_SCANS:
            raise BadImage("too many scans")
        pixels = _pixels_to_decode(image, size)
        with _room_for(0 if of_webp else pixels):
            result = _pixels(image, size)
            if pixels > LARGE:
                image.close()
                give_back_memory()
            return result


def _check_pixels(width: int, height: int) -> None:
    if Image.MAX_IMAGE_PIXELS and width * height > Image.MAX_IMAGE_PIXELS:
        raise BadImage(f"too many pixels ({width} x {height})")


def _room_for(pixels: int) -> contextlib.AbstractContextManager:
    return _room.take(pixels) if pixels > SMALL else contextlib.nullcontext()


def _pixels_to_decode(image: Image.Image, size: int) -> int:
    """Count the pixels that take memory: the decoder may shrink a JPEG (see `_pixels`)."""
    width, height = image.size
    shrinks = image.format in ("JPEG", "MPO") and not image.info.get("progressive")
    scale = min(width, height) // (2 * size) if shrinks else 1
    return width * height // min(max(scale, 1), 8) ** 2


def _webp_size(blob: bytes) -> tuple[int, int]:
    """Read width and height as the header of a WebP file claims them; 0, 0 for other files."""

    def number(first: int, last: int) -> int:
        return int.from_bytes(blob[first:last], "little")

    kind = blob[12:16] if blob[:4] == b"RIFF" and blob[8:12] == b"WEBP" else b""
    if kind == b"VP8X":
        return number(24, 27) + 1, number(27, 30) + 1
    if kind == b"VP8L":
        return (number(21, 25) & 0x3FFF) + 1, (number(21, 25) >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        return number(26, 28) & 0x3FFF, number(28, 30) & 0x3FFF
    return 0, 0


def _pixels(image: Image.Image, size: int) -> tuple[np.ndarray, int, int]:
    """Load an opened image; returns what `decode` returns."""
    width, height = image.size
    if image.format in ("JPEG", "MPO"):
        # The decoder can shrink by 2, 4 or 8 for nearly nothing; what stays is at least
        # twice the wanted size, so the resize below still has detail to average.
        image.draft(None, (2 * size, 2 * size))
        image.load()
    else:
        image.load()
        width, height = image.size  # TIFF turns itself upright while loading
    orientation = _orientation(image)
    rgb = _to_rgb(image)
    if orientation in UPRIGHT:
        rgb = rgb.transpose(UPRIGHT[orientation])
        if orientation >= 5:
            width, height = height, width
    return fit(rgb, size), height, width


def _orientation(image: Image.Image) -> int:
    """Read the EXIF orientation; 1 (upright) if the tag is absent or damaged."""
    try:
        return int(image.getexif().get(EXIF_ORIENTATION, 1))
    except MemoryError:
        raise
    except Exception:  # damaged metadata does not spoil the pixels
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any mode of Pillow as 8-bit RGB."""
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_deep_grey(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(rgba, mask=rgba.getchannel("A"))
        return white
    return image.convert("RGB")


def _deep_grey(values: np.ndarray) -> np.ndarray:
    """Grey of more than 8 bits, (H, W), as uint8 (H, W), scaled and never clipped.

    Integers are taken as 16-bit (65535 is white). Floats are taken as 0..1 or as 0..255, by
    their range. What fits none of these is stretched from its smallest to its largest value.
    """
    whole = np.issubdtype(values.dtype, np.integer)
    flat = values.reshape(-1)

    def block(first: int) -> np.ndarray:  # all at once would take 25 bytes for each pixel
        part = flat[first : first + BLOCK].astype(np.float64)
        return np.nan_to_num(part, posinf=0.0, neginf=0.0)

    starts = range(0, len(flat), BLOCK)
    low = min(float(block(first).min()) for first in starts)
    high = max(float(block(first).max()) for first in starts)
    white = next((top for top in ((65535,) if whole else (1, 255)) if high <= top), None)
    shift = 0.0
    if low < 0 or white is None:
        shift, white = low, (high - low) or 1.0
    out = np.empty(flat.shape, np.uint8)
    for first in starts:
        out[first : first + BLOCK] = np.rint((block(first) - shift) * (255 / white))
    return out.reshape(values.shape)
