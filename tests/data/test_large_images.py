"""What is small in the file and large in memory is refused before it takes the memory."""

import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from broken_photos import KINDS, claimed, empty_png, encode, with_size
from PIL import Image

from data import decode as module
from data.decode import BadImage, decode
from data.room import Room

ROOT = Path(__file__).resolve().parent.parent.parent
SIZE = 24


def peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_pillows_limit_of_pixels_is_kept():
    """The value in its documentation: a quarter of a gigabyte of RGB."""
    assert module.MAX_PIXELS == 1024**3 // 4 // 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", [9_500, 13_500, 16_383])
@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
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
    monkeypatch.setattr(module, "MAX_PIXELS", 37 * 211 - 1)
    monkeypatch.setattr(module.Image, "open", None)
    with pytest.raises(BadImage, match=r"^too many pixels \(37 x 211\)$"):
        decode(blob, SIZE)


@pytest.mark.parametrize(
    "options", [{}, pytest.param({"progressive": True}, marks=pytest.mark.hazard)]
)
def test_a_jpeg_of_108_megapixels_is_shrunk_while_it_is_decoded(options):
    """A telephone's: 26 ms, and little memory unless all coefficients come first."""
    small = Image.linear_gradient("L")
    blob = encode(small.resize((12_000, 9_000), Image.Resampling.NEAREST), "JPEG", **options)
    before = peak_memory()
    got, height, width = decode(blob, SIZE)
    assert (height, width) == (9_000, 12_000)
    want = np.asarray(small.resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    assert np.abs(got[0].astype(int) - want).max() <= 2
    assert peak_memory() - before < (300_000_000 if options else 60_000_000)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 1}])
def test_a_jpeg_that_only_claims_to_be_large_is_refused(options):
    blob = encode(Image.new("RGB", (64, 64)), "JPEG", **options)
    before, started = peak_memory(), time.process_time()
    for side in (10_000, 20_000, 65_500):
        with pytest.raises(BadImage, match=rf"^too many pixels \({side} x {side}\)$"):
            decode(with_size(blob, side, side), SIZE)
    assert peak_memory() - before < 10_000_000
    assert time.process_time() - started < 1


def test_a_jpeg_whose_coefficients_need_memory_is_refused_whatever_its_bytes():
    """Of progressive ones all are kept: 25 GB here, for a file that would pass as sequential."""
    blob = encode(Image.new("RGB", (64, 64)), "JPEG", progressive=True)
    before = peak_memory()
    with pytest.raises(BadImage, match=r"^too many pixels"):
        decode(with_size(blob, 65_500, 65_500) + bytes(20_000_000), SIZE)
    assert peak_memory() - before < 80_000_000


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


@pytest.mark.parametrize(("kind", "side", "at_once"), [
    ("PNG", 6_000, 2), ("PNG", 3_500, 7), ("PNG", 1_000, 8), ("JPEG", 6_000, 8), ("WEBP", 6_000, 2),
])  # fmt: skip
def test_few_pixels_are_decoded_at_once(monkeypatch, kind, side, at_once):
    """However many threads there are. A JPEG is shrunk while it is decoded."""
    running, most = [], []

    def pixels(image, *_):
        running.append(image)
        most.append(len(running))
        time.sleep(0.02)
        running.pop()

    monkeypatch.setattr(module, "_pixels", pixels)
    blob = claimed(kind, side)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: decode(blob, SIZE), range(16)))
    assert max(most) == at_once


def test_the_largest_image_has_its_turn_among_small_ones():
    """And it is let in, though it takes more than there is."""
    room, done = Room(10), []

    def take(amount):
        with room.take(amount):
            time.sleep(0.001)
            done.append(amount)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(take, [3, 3, 99, 3, 10, *[4] * 20]))
    assert sorted(done) == sorted([3, 3, 99, 3, 10, *[4] * 20])


@pytest.mark.hazard
def test_many_threads_take_little_memory():
    """A thread keeps what it had, with glibc: 24 threads would take 2 GB."""
    blob = encode(Image.new("RGB", (4_000, 3_000)), "PNG")
    code = (
        "import resource, sys; from concurrent.futures import ThreadPoolExecutor; "
        "from data.decode import decode; "
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024; "
        "blob = sys.stdin.buffer.read(); before = peak(); "
        "list(ThreadPoolExecutor(24).map(lambda _: decode(blob, 24), range(48))); "
        "print(peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, input=blob, capture_output=True)
    assert int(done.stdout) < 1_200_000_000, done.stderr
