"""Photos and archives that are small on the disk and large in memory, garbled or endless."""

import contextlib
import resource
import struct
import subprocess
import sys
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from broken_photos import empty_png, encode, with_size, zip_of
from photo_files import pets, png, write_tar, write_zip
from PIL import Image, features

from byol.errors import UserError
from data import archives, open_photos
from data.decode import BadImage, decode
from data.items import Item, NoPhoto

pytestmark = pytest.mark.hazard
ROOT = Path(__file__).resolve().parents[2]
PEAK = 1_600_000_000  # of the largest image that Pillow allows


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BYOL_CACHE", str(tmp_path / "cache"))


def opened(path, size=8):
    return open_photos(str(path), size, progress=False)


def peak_in_child(path: Path, *, seconds: float, ends_with: str = "") -> int:
    """Bytes of memory that opening takes in a process of its own, over what importing takes."""
    code = (
        "import resource, sys; from data import open_photos; from byol.errors import UserError\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "before = peak()\n"
        "try: open_photos(sys.argv[1], 8, progress=False)\n"
        "except UserError as error: print(error, file=sys.stderr)\n"
        "print(peak() - before)\n"
    )
    limit = resource.getrlimit(resource.RLIMIT_AS)[1]
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=seconds,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (16 << 30, limit)),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert ends_with in done.stderr
    return int(done.stdout)


# ---- archives ----


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_packing_that_zipfile_unpacks_without_a_bound_is_refused(tmp_path, method):
    """400 MB in 400 bytes for bzip2, whatever size the entry claims."""
    path = zip_of(tmp_path / "a.zip", {"bomb.jpg": bytes(400_000_000)}, method, claim=100)
    assert path.stat().st_size < 100_000
    ((name, reason),) = opened(path).skipped
    assert (name, reason) == ("bomb.jpg", f"packed by method {method}, not by deflate")
    assert peak_in_child(path, seconds=60, ends_with="(packed by") < 100_000_000


def test_a_small_claim_bounds_what_is_unpacked(tmp_path):
    bomb = {"bomb.jpg": bytes(190_000_000)}
    path = zip_of(tmp_path / "a.zip", bomb, zipfile.ZIP_DEFLATED, claim=100)
    assert peak_in_child(path, seconds=60, ends_with="skipped 1 of 31") < 60_000_000


@pytest.mark.slow
def test_many_bombs_of_199_megabytes(tmp_path):
    """As large as one file may be, a thousand to one; two at a time, and 500 MB in all."""
    zeros = {f"{i}.jpg": bytes(199_000_000) for i in range(8)}
    path = tmp_path / "bombs.zip"
    zip_of(path, zeros, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2_000_000
    assert peak_in_child(path, seconds=120, ends_with="cannot be used") < 1_200_000_000
    path = write_tar(tmp_path / "bombs.tar.gz", zeros)
    assert peak_in_child(path, seconds=120, ends_with="cannot be used") < 1_200_000_000


@pytest.mark.slow
def test_two_hundred_thousand_tiny_entries(tmp_path):
    names = [f"{i:06}.png" for i in range(200_000)]
    blob = png(0, 2)
    for path in (tmp_path / "a.zip", tmp_path / "a.tar"):
        write = write_zip if path.suffix == ".zip" else write_tar
        write(path, dict.fromkeys(names, blob))
        assert peak_in_child(path, seconds=300) < 500_000_000
        assert opened(path).names == names


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.xz"])
def test_garbled_archives_raise_nothing_but_user_errors(tmp_path, kind):
    write = write_zip if kind == "zip" else write_tar
    whole = write(tmp_path / f"whole.{kind}", pets(3)).read_bytes()
    read = archives.read_zip if kind == "zip" else archives.read_tar
    path = tmp_path / f"a.{kind}"
    rng = np.random.default_rng(0)
    reads, refusals = 0, []
    for _ in range(150):
        bad = bytearray(whole)
        heads = [i for i in range(len(whole) - 20) if whole[i : i + 2] == b"PK"] or [0, 1024]
        for _ in range(rng.integers(1, 5)):
            at = int(rng.choice(heads)) + int(rng.integers(0, 60 if kind == "zip" else 512))
            value = int(rng.choice([0, 1, 2**31 - 1, 2**32 - 1, int(rng.integers(2**32))]))
            bad[at : at + 4] = struct.pack("<I", value)
        path.write_bytes(bad)
        started = time.monotonic()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for item in read(path):
                    with contextlib.suppress(BadImage, NoPhoto):
                        if isinstance(item, Item):
                            item.load(8)
            reads += 1
        except UserError as error:
            refusals.append(str(error))
        assert time.monotonic() - started < 5
    assert len(refusals) > 20
    assert reads > 5 or kind in ("tar.gz", "tar.xz")
    assert all(text.isprintable() for text in refusals)


# ---- photos ----

BIG_WEBP = bytes.fromhex(
    "524946461e000000574542505650384c110000002fb7e4461907d0842634a1648188e87f0000"
)  # lossless, one see-through colour


@pytest.mark.slow
@pytest.mark.parametrize(
    "form", [(16, 0, 2), (8, 6, 4), (8, 4, 2), (16, 2, 6), (16, 4, 4), (16, 6, 8), BIG_WEBP]
)
def test_the_largest_images_take_a_gigabyte_and_a_half(form):
    """Grey of 16 bits, and transparency: the modes that need the most copies."""
    if isinstance(form, bytes):
        blob = form
    else:
        depth, colour, bytes_each = form
        blob = empty_png(9_400, 9_500, depth, colour, 9_400 * bytes_each)
    code = (
        "import io, resource, sys; from data.decode import decode; "
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024; "
        "blob = sys.stdin.buffer.read(); before = peak(); "
        "assert decode(blob, 24)[1:] == (9500, 9400); print(peak() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, input=blob, capture_output=True, check=True
    )
    assert len(blob) < 700_000
    assert int(done.stdout) < PEAK


@pytest.mark.parametrize("options", [{}, {"restart_marker_blocks": 1}])
def test_the_largest_jpeg_that_has_the_bytes_for_it_is_bounded(options):
    """Four billion pixels, of which an eighth of each side is decoded."""
    blob = with_size(encode(Image.new("RGB", (64, 64)), "JPEG", **options), 65_500, 65_500)
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.process_time()
    with contextlib.suppress(BadImage):
        decode(blob[:-2] + bytes(20_000_000) + b"\xff\xd9", 24)
    assert time.process_time() - started < 30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before.ru_maxrss
    assert peak * 1024 < 800_000_000


WITH_LITTLE_MEMORY = """
import os, resource, sys
from data.decode import decode

for path in sys.argv[1:]:
    blob = open(path, "rb").read()
    for extra in range(0, 160_000_000, 10_000_000):
        if os.fork() == 0:
            size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() + extra
            resource.setrlimit(resource.RLIMIT_AS, (size, size))
            try:
                decode(blob, 8)
            except MemoryError:
                os._exit(1)
            except BaseException:
                os._exit(2)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.wait()[1]))
"""


def test_too_little_memory_is_no_fault_of_the_file(tmp_path):
    paths = [
        tmp_path / kind for kind in ("PNG", "WEBP", "TIFF", *["AVIF"] * features.check("avif"))
    ]
    for path in paths:
        Image.new("RGB", (3000, 3000)).save(path, path.name)
    done = subprocess.run(
        [sys.executable, "-c", WITH_LITTLE_MEMORY, *paths],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    codes = done.stdout.split()
    assert len(codes) == len(paths) * 16, done.stderr
    for first in range(0, len(codes), 16):  # of each kind
        assert set(codes[first : first + 16]) == {"0", "1"}
