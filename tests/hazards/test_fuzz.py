"""Broken photos: what is mutated is decoded or refused, within bounded time and memory.

The mutations run in a child process, so that a crash, a hang or an exhausted address space of the
decoders is seen. `PYTHONPATH=.:tests python tests/hazards/test_fuzz.py 500 3` runs 500 of seed 3
and names the one that fails.
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
import warnings
import zipfile
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from broken_photos import KINDS, chunk, encode, with_size
from PIL import Image, features

pytestmark = pytest.mark.hazard
ROOT = Path(__file__).resolve().parents[2]
PHOTOS = ROOT.parent / "shared" / "datasets" / "cats_vs_dogs.zip"
SECONDS = 10  # for one file
# Over what the child has before the first mutation: address space, and memory that it touches.
# A WebP of 89 million pixels with transparency, which Pillow just allows, takes 1.5e9.
ADDRESS_SPACE = 3 << 30
PEAK = 1_600_000_000
SIZE = 24
EXTREMES = (0, 1, 255, 32_767, 32_768, 65_535, 2**31 - 1, 2**31, 2**32 - 1)


# ---- whole files ----


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
    if features.check("avif"):
        made += [encode(drawing, "AVIF", exif=exif), encode(seen_through, "AVIF")]
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
    from data.decode import MAX_PIXELS, BadImage, decode

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
            assert height * width <= MAX_PIXELS or blob[:2] == b"\xff\xd8"
            tally[f"{mutate.__name__} decoded"] += 1
        signal.alarm(0)
    return {"tally": tally, "reasons": reasons, "peak": peak_memory() - before}


def peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def child(count: int, seed: int) -> dict:
    done = subprocess.run(
        [sys.executable, __file__, str(count), str(seed)],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
            "OMP_NUM_THREADS": "1",
        },
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


if __name__ == "__main__":
    print(json.dumps(fuzz(int(sys.argv[1]), int(sys.argv[2]))))
