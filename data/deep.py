"""Bring samples of more than 8 bits to 8 so that their shades are kept.

Few files of 16 bits fill them: cameras, microscopes and X-ray machines give 10, 12 or 14. White is
then the largest value of the smallest such depth that holds what the file says of its samples
(TIFF MaxSampleValue, PNG sBIT) and what they are.
"""

from __future__ import annotations

import io
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from data.strip import BITS, PLANES, SAMPLE_FORMAT, Stripped

NARROW = (255, 1023, 4095, 16_383)
BLOCK = 1 << 20  # values; all at once would take 25 bytes for each
NATIVE = {"I;16BS": "I;16NS", "I;32BS": "I;32NS", "F;32BF": "F;32NF"}
_LITTLE = sys.byteorder == "little"
# What unpacks the low byte of a 16-bit sample in place of the high one, which Pillow takes.
OTHER_BYTE = {";16B": ";16L", ";16L": ";16B", ";16N": ";16B" if _LITTLE else ";16L"}
_stretched: Counter[int] = Counter()  # images by the bits that their values fill
_lock = threading.Lock()


def notes() -> list[str]:
    """Say what was done since the last call to images that their owner should know of."""
    with _lock:
        counts = sorted(_stretched.items())
        _stretched.clear()
    if not counts:
        return []
    each = ", ".join(f"{count:,} of {bits} bits" for bits, count in counts)
    return [f"stretched images of fewer bits than their files have room for: {each}"]


def prepare(image: Image.Image) -> str:
    """Make an opened image unpack right; returns how its samples are laid out, "" if unknown."""
    tags = getattr(image, "tag_v2", {})
    if not image.tile:
        return ""
    first = image.tile[0]
    layout = first.args if isinstance(first.args, str) else first.args[0]
    if not isinstance(layout, str):  # of GIF
        return ""
    if first.codec_name == "libtiff":  # it gives the machine's own order of bytes
        layout = NATIVE.get(layout, layout)
        image.tile = [_unpacked_as(first, layout)]
    elif tags.get(PLANES) == 2 and max(tags.get(BITS, (1,))) > 8:
        raise ValueError("16-bit colours in planes of their own, save it interleaved")
    return layout


def is_grey(image: Image.Image) -> bool:
    """Tell whether this image is one for `grey`."""
    signed = getattr(image, "tag_v2", {}).get(SAMPLE_FORMAT) == (2,)
    return image.mode == "F" or image.mode.startswith("I") or (image.mode == "L" and signed)


def grey(image: Image.Image, stripped: Stripped) -> Image.Image:
    """Scale loaded grey samples to 8 bits, never clipped.

    Floats are taken as 0..1 or as 0..255, by their range. What fits no range of its kind, as
    negative values, is stretched from its smallest to its largest value.
    """
    values = np.asarray(image)
    if stripped.grey_alpha:
        pairs = values.view(">u2")
        return _over_white(pairs[..., 0], pairs[..., 1], stripped.largest)
    tags = getattr(image, "tag_v2", {})
    bits, signed = tags.get(BITS, (16,))[0], tags.get(SAMPLE_FORMAT) == (2,)
    if image.mode == "L":
        values = values.view(np.int8)
    elif image.mode == "I" and bits == 32 and not signed:
        values = values.view(np.uint32)
    low, high = _range(_blocks(values))
    black = 0.0
    if image.mode == "F":
        white = next((top for top in (1, 255) if high <= top), None)
    else:
        top = (1 << bits - signed) - 1 if bits <= 16 else 65_535
        white = _white(high, stripped.largest, top, lambda: _blocks(values)) if low >= 0 else None
    if low < 0 or white is None:
        black, white = low, (high - low) or 1.0
    pixels = _scale(values, black, white)
    if stripped.negative:
        np.subtract(255, pixels, out=pixels)
    if isinstance(key := image.info.get("transparency"), int):
        pixels[values == key] = 255
    return Image.fromarray(pixels)


def deepen(image: Image.Image, layout: str, stripped: Stripped) -> None:
    """Stretch loaded colours, of which Pillow took the high bytes, if they use few of their bits.

    Then the file is read a second time for the low bytes.
    """
    if not layout.startswith(("RGB;16", "RGBA;16", "RGBX;16")):
        return
    if max(high for _, high in image.getextrema()[:3]) > NARROW[-1] >> 8:
        return
    with Image.open(io.BytesIO(stripped.blob), formats=[image.format]) as low:
        other = layout[:-4] + OTHER_BYTE[layout[-4:]]
        low.tile = [_unpacked_as(tile, other) for tile in low.tile]
        low.load()
        rows = max(1, BLOCK // image.width)
        boxes = [
            (0, top, image.width, min(top + rows, image.height))
            for top in range(0, image.height, rows)
        ]

        def both(box: tuple[int, int, int, int]) -> np.ndarray:
            return np.asarray(image.crop(box)).astype(np.uint16) << 8 | np.asarray(low.crop(box))

        def colours() -> Iterator[np.ndarray]:
            return (both(box)[..., :3] for box in boxes)

        white = _white(_range(colours())[1], stripped.largest, 65_535, colours)
        if white == 65_535:
            return
        alpha = 65_535
        if image.mode == "RGBA":
            alpha = _alpha_white(max(int(both(box)[..., 3].max()) for box in boxes), white)
        for box in boxes:
            values = both(box)
            pixels = _scale(values, 0, white)
            if image.mode == "RGBA":
                pixels[..., 3] = _scale(values[..., 3], 0, alpha)
            image.paste(Image.fromarray(pixels), box)


def _unpacked_as(tile: tuple, rawmode: str) -> tuple:
    return tile._replace(args=rawmode if isinstance(tile.args, str) else (rawmode, *tile.args[1:]))


def _blocks(values: np.ndarray) -> Iterator[np.ndarray]:
    flat = values.reshape(-1)
    return (flat[first : first + BLOCK] for first in range(0, len(flat), BLOCK))


def _finite(block: np.ndarray) -> np.ndarray:
    return np.nan_to_num(block.astype(np.float64), posinf=0.0, neginf=0.0)


def _range(blocks: Iterator[np.ndarray]) -> tuple[float, float]:
    lows, highs = [], []
    for block in blocks:
        finite = _finite(block) if block.dtype.kind == "f" else block
        lows.append(finite.min().item())
        highs.append(finite.max().item())
    return min(lows), max(highs)


def _white(
    high: float, said: int, top: int, blocks: Callable[[], Iterator[np.ndarray]]
) -> int | None:
    """The value that is white, of integers from 0 to `top`; None if there are higher ones.

    Values of 8 bits that were scaled up to 16, all of them multiples of 257, have all 16.
    """
    if high > top:
        return None
    most = max(high, said if said <= top else 0)
    white = next((narrow for narrow in NARROW if most <= narrow < top), top)
    if white == top or not any((block % 257).any() for block in blocks()):
        return top
    with _lock:
        _stretched[white.bit_length()] += 1
    return white


def _alpha_white(high: int, white: int) -> int:
    """What is opaque: alpha has the bits of the colours, or all 16."""
    return white if high <= white else 65_535


def _scale(values: np.ndarray, black: float, white: float) -> np.ndarray:
    """Values as uint8 of the same shape."""

    def shades(block: np.ndarray) -> np.ndarray:
        return np.rint((_finite(block) - black) * (255 / white))

    pixels = np.empty(values.size, np.uint8)
    table = None
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:  # faster
        table = shades(np.arange(65_536)).clip(0, 255).astype(np.uint8)
    for first, block in zip(range(0, values.size, BLOCK), _blocks(values), strict=True):
        pixels[first : first + BLOCK] = shades(block) if table is None else table[block]
    return pixels.reshape(values.shape)


def _over_white(values: np.ndarray, alpha: np.ndarray, said: int) -> Image.Image:
    """Grey and alpha of 16 bits as grey on white."""
    white = _white(_range(_blocks(values))[1], said, 65_535, lambda: _blocks(values))
    opaque = _alpha_white(int(alpha.max()), white)
    pixels = np.empty(values.shape, np.uint8)
    for row, (shades, cover) in enumerate(zip(values, alpha, strict=True)):
        pixels[row] = np.rint(255 - (255 - shades * (255 / white)) * (cover / opaque))
    return Image.fromarray(pixels)
