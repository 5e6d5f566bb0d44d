"""Broken photos: what is mutated is decoded or refused, within bounded time and memory.

The mutations run in a child process, so that a crash, a hang or an exhausted address space of the
decoders is seen. `python tests/test_fuzz.py 500 3` runs 500 of seed 3 and names the one that fails.
"""

import faulthandler
import io
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import time
import warnings
import zipfile
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PHOTOS = ROOT.parent / "shared" / "datasets" / "cats_vs_dogs.zip"
SECONDS = 10  # for one file
# Over what the child has before the first mutation: address space, and memory that it touches.
# A WebP of 89 million pixels with transparency, which Pillow just allows, takes 1.5e9.
ADDRESS_SPACE = 3 << 30
PEAK = 1_600_000_000
SIZE = 24
KINDS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")
EXTREMES = (0, 1, 255, 32_767, 32_768, 65_535, 2**31 - 1, 2**31, 2**32 - 1)


# ---- whole files ----


def encode(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.copy().save(stream, kind, **options)  # a copy: Pillow leaves its settings on the image
    return stream.getvalue()


def whole_files() -> list[bytes]:
    """Drawings in every format and in the variants that take other decoders, and a few photos."""
    from PIL import ImageCms

    from data.cartoons import draw

    drawing = Image.fromarray(draw(3, 1, 64)[0])
    seen_through = drawing.convert("RGBA")
    seen_through.putalpha(drawing.convert("L"))
    deep = Image.fromarray(np.asarray(drawing.convert("L")).astype(np.uint16) * 257)
    exif = Image.Exif()
    exif.update({0x0112: 6, 0x010E: "a drawing", 0x0132: "2020:01:01 00:00:00", 0x011A: 72.0})
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    turned = {"save_all": True, "append_images": [drawing.rotate(90)]}
    made = [encode(drawing, kind) for kind in KINDS]
    made += [encode(drawing, kind, exif=exif, icc_profile=icc) for kind in KINDS[:3]]
    made += [encode(drawing, kind, **turned) for kind in ("PNG", "WEBP", "GIF", "TIFF", "MPO")]
    made += [encode(seen_through, kind) for kind in ("PNG", "WEBP", "TIFF")]
    made += [encode(deep, kind) for kind in ("PNG", "TIFF")]
    made += [encode(deep.convert("F"), "TIFF"), encode(drawing.convert("1"), "TIFF")]
    made += [encode(drawing.convert("CMYK"), kind) for kind in ("JPEG", "TIFF")]
    packings = ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
    made += [encode(drawing, "TIFF", compression=packing) for packing in packings]
    made += [encode(drawing.convert("1"), "TIFF", compression="group4")]
    made += [encode(seen_through, "WEBP", lossless=True)]
    made += [encode(drawing, "JPEG", progressive=True, exif=exif, icc_profile=icc)]
    made += [encode(drawing.quantize(7), "PNG", transparency=2), encode(drawing.quantize(9), "BMP")]
    if PHOTOS.is_file():
        with zipfile.ZipFile(PHOTOS) as archive:
            names = sorted(n for n in archive.namelist() if n.lower().endswith(".jpg"))
            made += [archive.read(name) for name in names[:: max(1, len(names) // 5)][:5]]
    return made


# ---- mutations: (bytes, a random generator, all whole files) -> bytes ----


def cut(blob, rng, _):
    return blob[: rng.integers(0, len(blob))]


def flip_bits(blob, rng, _):
    bad = np.frombuffer(blob, np.uint8).copy()
    reach = len(bad) if rng.random() < 0.5 else min(len(bad), 400)  # headers matter most
    for at in rng.integers(0, reach, rng.choice([1, 3, 10, 100])):
        bad[at] ^= 1 << rng.integers(0, 8)
    return bad.tobytes()


def extreme_numbers(blob, rng, _):
    bad = bytearray(blob)
    for at in rng.integers(0, min(len(bad), 300), rng.integers(1, 4)):
        order, value = rng.choice(["<", ">"]), int(rng.choice(EXTREMES))
        bad[at : at + 4] = struct.pack(order + "I", value)
    return bytes(bad)


def swap_header(blob, rng, others):
    other, length = others[rng.integers(len(others))], rng.choice([2, 4, 8, 16, 64, 200])
    return other[:length] + blob[length:]


def splice(blob, rng, others):
    other = others[rng.integers(len(others))]
    return blob[: rng.integers(0, len(blob))] + other[rng.integers(0, len(other)) :]


def repeat_or_drop(blob, rng, _):
    first, last = sorted(rng.integers(0, len(blob), 2))
    return blob[:first] + blob[first:last] * int(rng.choice([0, 2, 20])) + blob[last:]


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_size(blob: bytes, width: int, height: int) -> bytes:
    """The same file with another size in its header, and a checksum that fits."""
    narrow = [min(side, 65_535) for side in (width, height)]
    bad = bytearray(blob)
    if blob[:4] == b"\x89PNG":
        return (
            blob[:8] + chunk(b"IHDR", struct.pack(">II", width, height) + blob[24:29]) + blob[33:]
        )
    if blob[:3] == b"GIF":
        bad[6:10] = struct.pack("<HH", *narrow)
    elif blob[:2] == b"BM":
        bad[18:26] = struct.pack("<II", width, height)
    elif blob[:2] == b"\xff\xd8":
        at = max(blob.find(b"\xff\xc0\x00"), blob.find(b"\xff\xc2\x00"))
        bad[at + 5 : at + 9] = struct.pack(">HH", *narrow[::-1])
    elif blob[:4] == b"RIFF" and blob[12:16] == b"VP8X":  # each side less one, in 24 bits
        sides = ((side - 1) & 0xFFFFFF for side in (width, height))
        bad[24:30] = b"".join(side.to_bytes(3, "little") for side in sides)
    elif blob[12:16] == b"VP8L":
        sides = [(side - 1) & 0x3FFF for side in (width, height)]
        bits = struct.unpack("<I", blob[21:25])[0] >> 28 << 28 | sides[1] << 14 | sides[0]
        bad[21:25] = struct.pack("<I", bits)
    elif blob[:4] == b"RIFF":
        bad[26:30] = struct.pack("<HH", *(side & 0x3FFF for side in narrow))
    elif blob[:4] == b"II*\0":
        at = struct.unpack("<I", blob[4:8])[0] + 2
        for tag, side in enumerate((width, height)):  # these come first
            bad[at + 12 * tag + 2 : at + 12 * tag + 12] = struct.pack("<HII", 4, 1, side)
    return bytes(bad)


def claimed(kind: str, side: int) -> bytes:
    return with_size(encode(Image.new("RGB", (8, 8)), kind), side, side)


def claim_size(blob, rng, _):
    sides = [0, 1, 9_000, 9_400, 13_000, 16_383, 65_535, 2**31 - 1]
    return with_size(blob, *(int(side) for side in rng.choice(sides, 2)))


def tiff_block(rng) -> bytes:
    """A directory of random tags, types, counts and offsets, some of them back into itself."""
    body = b"".join(
        struct.pack(
            "<HHII",
            rng.choice([0x0112, 0x8769, 0x8825, 0xA005, 0x014A, rng.integers(0, 65_536)]),
            rng.integers(0, 15),
            rng.choice([0, 1, 2, 1000, 2**31 - 1, 2**32 - 1]),
            rng.choice([0, 6, 8, 3, 2**32 - 1, rng.integers(0, 1000)]),
        )
        for _ in range(rng.integers(1, 40))
    )
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(body) // 12) + body + b"\x08\0\0\0"


def metadata(blob, rng, _):
    """Absurd EXIF, or an ICC profile of noise, in front of good pixels."""
    exif, icc = tiff_block(rng), rng.bytes(rng.choice([0, 10, 128, 3000]))
    drawing = Image.open(io.BytesIO(blob)).convert("RGB").resize((32, 32))
    if rng.random() < 0.3:  # compressed in the file: 60 MB of zeros in 60 KB
        body = b"icc\0\0" + zlib.compress(icc + bytes(60_000_000), 1)
        kind = b"iCCP" if rng.random() < 0.5 else b"zTXt"
        plain = encode(drawing, "PNG")
        return plain[:33] + chunk(kind, body) + plain[33:]
    kind = rng.choice(["JPEG", "PNG", "WEBP"])
    return encode(drawing, kind, exif=b"Exif\0\0" + exif, icc_profile=icc or None)


MUTATIONS = (
    cut,
    flip_bits,
    extreme_numbers,
    swap_header,
    splice,
    repeat_or_drop,
    claim_size,
    metadata,
)


# ---- the child process ----


def fuzz(count: int, seed: int) -> dict:
    """Mutate and decode `count` times. Raises where a result is neither pixels nor `BadImage`."""
    from data.decode import BadImage, decode

    warnings.simplefilter("ignore")
    faulthandler.enable()
    blobs = whole_files()
    for blob in blobs:
        decode(blob, SIZE)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + ADDRESS_SPACE,) * 2)
    before = peak_memory()
    tally, reasons = Counter(), Counter()
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        mutate = MUTATIONS[index % len(MUTATIONS)]
        blob = mutate(blobs[rng.integers(len(blobs))], rng, blobs)
        print(f"at {index} {mutate.__name__}", file=sys.stderr, flush=True)
        signal.alarm(SECONDS)  # nothing handles it: the process dies
        try:
            pixels, height, width = decode(blob, SIZE)
        except BadImage as problem:
            reason = str(problem)
            assert 0 < len(reason) <= 120
            assert reason.isprintable(), repr(reason)
            tally[f"{mutate.__name__} refused"] += 1
            reasons[reason] += 1
        else:
            assert (pixels.dtype, pixels.shape) == (np.uint8, (3, SIZE, SIZE))
            assert pixels.flags.c_contiguous
            assert height >= 1
            assert width >= 1
            assert height * width <= Image.MAX_IMAGE_PIXELS
            tally[f"{mutate.__name__} decoded"] += 1
        signal.alarm(0)
    return {"tally": tally, "reasons": reasons, "peak": peak_memory() - before}


def peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def child(count: int, seed: int) -> dict:
    done = subprocess.run(
        [sys.executable, __file__, str(count), str(seed)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=1200,
    )
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr[-3000:]}"
    return json.loads(done.stdout)


def check(result: dict, count: int) -> None:
    tally = result["tally"]
    assert sum(tally.values()) == count
    for mutate in MUTATIONS:  # each kind of damage reached a decoder
        assert tally.get(f"{mutate.__name__} refused", 0) + tally.get(
            f"{mutate.__name__} decoded", 0
        )
    assert sum(n for name, n in tally.items() if name.endswith("refused")) > count // 10
    assert sum(n for name, n in tally.items() if name.endswith("decoded")) > count // 10
    assert len(result["reasons"]) > 5
    assert result["peak"] < PEAK


def test_two_hundred_broken_photos():
    check(child(200, seed=0), 200)


@pytest.mark.slow
def test_two_thousand_broken_photos():
    check(child(2000, seed=1), 2000)


# ---- what is small in the file and large in memory ----


def empty_png(width: int, height: int, depth: int, colour: int, row: int) -> bytes:
    """A whole PNG of zeros, `row` bytes for each line; it packs a thousand to one."""
    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(bytes(row + 1)) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(kind, part) for kind, part in ((b"IHDR", header), (b"IDAT", body), (b"IEND", b""))
    )


def test_pillows_limit_of_pixels_is_kept():
    """The value in its documentation: a quarter of a gigabyte of RGB."""
    from data import decode

    assert decode.Image.MAX_IMAGE_PIXELS == 1024**3 // 4 // 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", [9_500, 13_500, 16_383])  # Pillow warns of one, refuses the others
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_size_beyond_the_limit_is_refused_in_every_format(kind, side):
    from data.decode import BadImage, decode

    before = peak_memory()
    with pytest.raises(BadImage, match=r"too many pixels"):
        decode(claimed(kind, side), SIZE)
    assert peak_memory() - before < 50_000_000


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": b"Exif\0\0II*\0"}])
def test_a_large_webp_is_refused_before_pillow_sees_it(monkeypatch, options):
    """libwebp makes room for two canvases when the file is opened: 2 GB for 100 bytes."""
    from data import decode

    image = Image.new("RGB", (37, 211))
    blob = encode(image, "WEBP", **options)
    assert decode._webp_size(blob) == (37, 211)
    assert decode.decode(blob, SIZE)[1:] == (211, 37)
    monkeypatch.setattr(decode.Image, "MAX_IMAGE_PIXELS", 37 * 211 - 1)
    monkeypatch.setattr(decode.Image, "open", None)
    with pytest.raises(decode.BadImage, match=r"^too many pixels \(37 x 211\)$"):
        decode.decode(blob, SIZE)


def test_a_long_thin_image_is_refused():
    """Pillow's table for the resize would take gigabytes, or end in a MemoryError."""
    from data.decode import BadImage, decode

    with pytest.raises(BadImage, match=r"^too long a side \(80000000 x 1\)$"):
        decode(empty_png(80_000_000, 1, 8, 0, 80_000_000), SIZE)
    assert decode(empty_png(400_000, 1, 8, 0, 400_000), SIZE)[1:] == (1, 400_000)


def test_a_jpeg_of_endless_scans_is_refused():
    from data.decode import BadImage, decode

    blob = encode(Image.new("L", (64, 64)), "JPEG", progressive=True)
    last = blob[blob.rfind(b"\xff\xda") : -2]
    assert decode(blob[:-2] + last * 50 + b"\xff\xd9", SIZE)[1:] == (64, 64)
    with pytest.raises(BadImage, match=r"^too many scans$"):
        decode(blob[:-2] + last * 1_001 + b"\xff\xd9", SIZE)


def test_large_images_are_decoded_one_at_a_time(monkeypatch):
    from data import decode

    running, most = [], []

    def pixels(image, size):
        running.append(image)
        most.append(len(running))
        time.sleep(0.02)
        running.pop()

    monkeypatch.setattr(decode, "_pixels", pixels)
    for side, want in ((6_000, 1), (5_000, 4)):
        most.clear()
        blob = claimed("PNG", side)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _, blob=blob: decode.decode(blob, SIZE), range(8)))
        assert max(most) == want


BIG_WEBP = bytes.fromhex(
    "524946461e000000574542505650384c110000002fb7e4461907d0842634a1648188e87f0000"
)  # lossless, one see-through colour


@pytest.mark.slow
@pytest.mark.parametrize("form", [(16, 0, 2), (8, 6, 4), (8, 4, 2), BIG_WEBP])
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
    assert len(blob) < 400_000
    assert int(done.stdout) < PEAK


if __name__ == "__main__":
    print(json.dumps(fuzz(int(sys.argv[1]), int(sys.argv[2]))))
