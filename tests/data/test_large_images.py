"""What is small in the file and large in memory is refused before it takes the memory."""

import resource
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from broken_photos import KINDS, claimed, empty_png, encode
from PIL import Image

from data import decode as module
from data.decode import BadImage, decode

SIZE = 24


def peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_pillows_limit_of_pixels_is_kept():
    """The value in its documentation: a quarter of a gigabyte of RGB."""
    assert module.Image.MAX_IMAGE_PIXELS == 1024**3 // 4 // 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", [9_500, 13_500, 16_383])  # Pillow warns of one, refuses the others
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_size_beyond_the_limit_is_refused_in_every_format(kind, side):
    before = peak_memory()
    with pytest.raises(BadImage, match=r"too many pixels"):
        decode(claimed(kind, side), SIZE)
    assert peak_memory() - before < 50_000_000


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": b"Exif\0\0II*\0"}])
def test_a_large_webp_is_refused_before_pillow_sees_it(monkeypatch, options):
    """libwebp makes room for two canvases when the file is opened: 2 GB for 100 bytes."""
    image = Image.new("RGB", (37, 211))
    blob = encode(image, "WEBP", **options)
    assert module._webp_size(blob) == (37, 211)
    assert decode(blob, SIZE)[1:] == (211, 37)
    monkeypatch.setattr(module.Image, "MAX_IMAGE_PIXELS", 37 * 211 - 1)
    monkeypatch.setattr(module.Image, "open", None)
    with pytest.raises(BadImage, match=r"^too many pixels \(37 x 211\)$"):
        decode(blob, SIZE)


def test_a_long_thin_image_is_refused():
    """Pillow's table for the resize would take gigabytes, or end in a MemoryError."""
    with pytest.raises(BadImage, match=r"^too long a side \(80000000 x 1\)$"):
        decode(empty_png(80_000_000, 1, 8, 0, 80_000_000), SIZE)
    assert decode(empty_png(400_000, 1, 8, 0, 400_000), SIZE)[1:] == (1, 400_000)


def test_a_jpeg_of_endless_scans_is_refused():
    blob = encode(Image.new("L", (64, 64)), "JPEG", progressive=True)
    last = blob[blob.rfind(b"\xff\xda") : -2]
    assert decode(blob[:-2] + last * 50 + b"\xff\xd9", SIZE)[1:] == (64, 64)
    with pytest.raises(BadImage, match=r"^too many scans$"):
        decode(blob[:-2] + last * 1_001 + b"\xff\xd9", SIZE)


def test_large_images_are_decoded_one_at_a_time(monkeypatch):
    running, most = [], []

    def pixels(image, size):
        running.append(image)
        most.append(len(running))
        time.sleep(0.02)
        running.pop()

    monkeypatch.setattr(module, "_pixels", pixels)
    for side, want in ((6_000, 1), (5_000, 4)):
        most.clear()
        blob = claimed("PNG", side)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _, blob=blob: decode(blob, SIZE), range(8)))
        assert max(most) == want
