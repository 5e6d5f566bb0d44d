"""Turn the bytes of one image file into an 8-bit RGB array of the stored shape."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings

import numpy as np

# Importing the plug-ins here registers them before any thread decodes.
from PIL import (  # noqa: F401
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
    features,
)

from data import deep
from data.room import Room, give_back_memory
from data.strip import Stripped, orientation, strip

try:
    import pillow_heif
except ImportError:
    pillow_heif = None

FORMATS = ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"]
if features.check("avif"):
    FORMATS.append("AVIF")
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # files are decoded side by side
if pillow_heif:
    FORMATS.append("HEIF")
    pillow_heif.register_heif_opener(decode_threads=1)
# Pillow's remarks on odd metadata are not for the user, and its limit of pixels is ours.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)
Image.MAX_IMAGE_PIXELS = None
MAX_PIXELS = 1024**3 // 4 // 3  # what Pillow allows unless told otherwise
MAX_BYTES = 1_500_000_000  # that decoding a JPEG may take, whose pixels may be more
MAX_SIDE = 500_000  # the resize needs a table as long as the longest side
MAX_SCANS = 1_000  # of a progressive JPEG, which has about ten; each runs over all pixels
# How many pixels are decoded at once, whatever the number of threads: as many as the largest image
# may have, for which Pillow takes up to 1.5 GB.
_room = Room(MAX_PIXELS)
SMALL = 500_000  # pixels that need not ask, since that takes time
LARGE = 4_000_000  # pixels, of which the memory is given back to the system at once
SILENT = ("AVIF", "HEIF")  # as of WebP, their errors do not tell whether memory was lacking
AVIF_BRANDS = {b"avif", b"avis"}
HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1"}
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


def decode(blob: bytes, shape: int | tuple[int, int]) -> tuple[np.ndarray, int, int]:
    """Decode one image file and squash it into the stored shape (H, W); a number is a square.

    The first frame counts. The image is turned upright by its EXIF tag, transparency is laid
    over white, and every colour mode becomes 8-bit RGB. Other metadata is not looked at. If W is
    above H, an image that is taller than wide is stored transposed.

    Returns the pixels, uint8 (3, H, W), contiguous, and the original height and width in
    pixels, upright. Raises `BadImage` for whatever is not a whole, sane image, and
    `MemoryError`.
    """
    if not blob:
        raise BadImage("empty file")
    try:
        return _decode(blob, (shape, shape) if isinstance(shape, int) else shape)
    except (BadImage, MemoryError):
        raise
    except UnidentifiedImageError:
        raise BadImage(_unknown(blob)) from None
    except Exception as error:  # Pillow's decoders raise nearly every kind
        width, height = _webp_size(blob)
        np.empty(12 * width * height, np.uint8)
        raise BadImage(f"cannot be decoded: {str(error)[:80] or type(error).__name__}") from error


def read_size(blob: bytes) -> tuple[int, int]:
    """Read height and width from the header alone, as before EXIF turns them.

    Raises `BadImage` if they cannot be read.
    """
    width, height = _webp_size(blob)
    try:
        if not width:
            with Image.open(io.BytesIO(strip(blob).blob), formats=FORMATS) as image:
                width, height = image.size
    except Exception as error:  # as in `decode`, which will say more of it
        raise BadImage("no header that can be read") from error
    return height, width


def fit(image: Image.Image, shape: tuple[int, int], tall: bool) -> np.ndarray:
    """Squash an RGB image to uint8 (3, H, W), antialiased; no change if it fits.

    If W is above H, a `tall` image is transposed.
    """
    height, width = shape
    turned = tall and height != width
    wanted = (height, width) if turned else (width, height)
    if image.size != wanted:
        image = image.resize(wanted, Image.Resampling.BICUBIC)
    pixels = np.asarray(image)
    if turned:
        pixels = pixels.swapaxes(0, 1)
    planes = np.empty((3, height, width), np.uint8)
    for channel in range(3):  # faster than one transposing copy
        planes[channel] = pixels[..., channel]
    return planes


def _decode(blob: bytes, shape: tuple[int, int]) -> tuple[np.ndarray, int, int]:
    width, height = _webp_size(blob)
    _check_pixels(width, height)  # Pillow would take 8 bytes for each before it looks
    stripped = strip(blob)
    of_webp = width * height
    with _room_for(of_webp), Image.open(io.BytesIO(stripped.blob), formats=FORMATS) as image:
        width, height = image.size
        if max(width, height) > MAX_SIDE:
            raise BadImage(f"too long a side ({width} x {height})")
        if image.format in ("JPEG", "MPO"):
            weight = _shrink_jpeg(image, shape, stripped)
        else:
            weight = width * height
            _check_pixels(width, height)
        with _room_for(0 if of_webp else weight):
            try:
                result = _pixels(image, (width, height), shape, stripped)
            except Exception:
                if image.format in SILENT:
                    np.empty(12 * weight, np.uint8)
                raise
            if weight > LARGE:
                image.close()
                give_back_memory()
            return result


def _pixels(
    image: Image.Image, full: tuple[int, int], shape: tuple[int, int], stripped: Stripped
) -> tuple[np.ndarray, int, int]:
    """Load an opened image, of `full` width and height; returns what `decode` returns."""
    rgb = _to_rgb(image, stripped)
    width, height = full
    turned = stripped.orientation or orientation(
        image.info.get("exif") or b"", image.info.get("xmp") or b""
    )
    if turned in UPRIGHT:
        rgb = rgb.transpose(UPRIGHT[turned])
        if turned >= 5:
            width, height = height, width
    return fit(rgb, shape, height > width), height, width


def _unknown(blob: bytes) -> str:
    """Say why Pillow does not know this format."""
    if blob[4:8] == b"ftyp":
        end = min(int.from_bytes(blob[:4], "big"), 100)
        brands = {blob[at : at + 4] for at in range(8, end, 4)}
        if brands & AVIF_BRANDS and "AVIF" not in FORMATS:
            return "AVIF needs a newer Pillow, or convert it to JPEG"
        if brands & HEIF_BRANDS and "HEIF" not in FORMATS:
            return "HEIC needs pillow-heif: pip install pillow-heif, or convert it to JPEG"
    return "not an image that can be read"


def _check_pixels(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise BadImage(f"too many pixels ({width} x {height})")


def _shrink_jpeg(image: Image.Image, shape: tuple[int, int], stripped: Stripped) -> int:
    """Have the decoder shrink by 2, 4 or 8 while it decodes, which costs nearly nothing.

    What stays is at least twice the wanted size, so the resize still has detail to average.
    Returns how many pixels take as much memory as decoding this file.
    """
    if image.info.get("progressive") and stripped.blob.count(b"\xff\xda") > MAX_SCANS:
        raise BadImage("too many scans")
    pixels = image.size[0] * image.size[1]
    text = f"too many pixels ({image.size[0]} x {image.size[1]})"
    short, long = 2 * shape[0], 2 * shape[1]  # the long side lies along W
    image.draft(None, (long, short) if image.width >= image.height else (short, long))
    weight = 8 * image.size[0] * image.size[1]  # as decoded, and as RGB
    if not stripped.row_by_row:  # the decoder keeps all coefficients, of two bytes
        weight += 2 * image.layers * pixels
    # A block of 64 pixels takes two bits at least. A file that has not so many only claims.
    if weight > MAX_BYTES or pixels > max(MAX_PIXELS, 256 * len(stripped.blob)):
        raise BadImage(text)
    return weight // 8


def _room_for(pixels: int) -> contextlib.AbstractContextManager:
    return _room.take(pixels) if pixels > SMALL else contextlib.nullcontext()


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


def _to_rgb(image: Image.Image, stripped: Stripped) -> Image.Image:
    """Load an opened image of any mode as 8-bit RGB."""
    layout = deep.prepare(image)
    image.load()
    if stripped.grey_alpha or deep.is_grey(image):
        return deep.grey(image, stripped).convert("RGB")
    deep.deepen(image, layout, stripped)
    if image.has_transparency_data:
        if image.mode == "La":  # Pillow knows no shorter way
            image = image.convert("LA")
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(rgba, mask=rgba.getchannel("A"))
        return white
    return image if image.mode == "RGB" else image.convert("RGB")
