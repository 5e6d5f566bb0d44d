"""The lines of docs/weights.md to use without the project show a network the same photo."""

import io

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from byol.views.augment import central_view
from data.decode import decode

SIDE = 32
CONTENT = {"image_size": SIDE, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def noise(*shape: int, top: int = 255, dtype=np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, top + 1, shape).astype(dtype)


def turned(orientation: int, kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(Image.fromarray(noise(SIDE, SIDE, 3)), kind, exif=exif)


def saved(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


DEEP = Image.fromarray(noise(SIDE, SIDE, top=65_535, dtype=np.uint16))
PALETTE = Image.fromarray(noise(SIDE, SIDE, 3)).quantize(9)
FILES = {
    **{f"{kind} turned {n}": turned(n, kind) for kind in ("PNG", "JPEG") for n in range(1, 9)},
    "transparent": saved(Image.fromarray(noise(SIDE, SIDE, 4)), "PNG"),
    "transparent WebP": saved(Image.fromarray(noise(SIDE, SIDE, 4)), "WEBP", lossless=True),
    "a transparent colour of a palette": saved(PALETTE, "PNG", transparency=3),
    "a palette of many transparencies": saved(PALETTE, "PNG", transparency=bytes([0, 99, 200])),
    "transparent GIF": saved(PALETTE, "GIF", transparency=3),
    "grey and alpha": saved(Image.fromarray(noise(SIDE, SIDE, 4)).convert("LA"), "PNG"),
    "grey": saved(Image.fromarray(noise(SIDE, SIDE)), "JPEG"),
    "16-bit PNG": saved(DEEP, "PNG"),
    "16-bit TIFF": saved(DEEP, "TIFF"),
    "big-endian TIFF": saved(Image.fromarray(np.asarray(DEEP).astype(">u2")), "TIFF"),
}


@pytest.fixture(scope="module")
def lines(root) -> str:
    page = (root / "docs" / "weights.md").read_text()
    code = page[page.index("    import numpy as np\n    from PIL import Image, ImageOps") :]
    return "\n".join(
        line[4:] for line in code.partition("\n## ")[0].splitlines() if line[:4] == " " * 4
    )


@pytest.mark.parametrize("name", FILES)
def test_a_photo_of_the_stored_size_looks_the_same(lines, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.jpg").write_bytes(FILES[name])
    known = {"torchvision": torchvision, "content": CONTENT, "model": torch.nn.Identity()}
    exec(lines, known)

    pixels, height, width = decode(FILES[name], SIDE)
    images, sizes = torch.from_numpy(pixels)[None], np.array([[height, width]])
    want = central_view(images, sizes, SIDE, CONTENT["mean"], CONTENT["std"])
    torch.testing.assert_close(known["scores"], want, atol=1e-3, rtol=1e-3)
