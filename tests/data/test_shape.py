"""The shape of the store: what it is for which photos, and packs that are no squares."""

import hashlib
import io
import itertools
import multiprocessing
import os

import numpy as np
import pytest
from photo_files import pets, png, write_folder, write_tar, write_zip
from PIL import Image

from byol.errors import UserError
from data import cartoons, open_photos, shape, sources
from data.decode import BadImage, decode, read_size
from data.shape import stored_shape

LAYOUTS = {write_folder: "in", write_zip: "in.zip", write_tar: "in.tar.xz"}


def noise(seed: int, height: int, width: int, kind: str = "PNG", **options) -> bytes:
    """An image of smooth noise."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(coarse).resize((width, height), 3).save(stream, kind, **options)
    return stream.getvalue()


def long_photos(count: int) -> dict[str, bytes]:
    """As many of 16:9 as of 9:16, in two classes."""
    return {
        f"{kind}/{i}.png": noise(1000 * (kind == "tall") + i, *size)
        for kind, size in (("tall", (32, 18)), ("wide", (18, 32)))
        for i in range(count // 2)
    }


def opened(path, size=8, **options):
    return open_photos(str(path), size, progress=False, **options)


@pytest.fixture
def decoded(monkeypatch):
    """Lists the shapes into which files are decoded."""
    shapes = []
    monkeypatch.setattr(
        "data.items.decode", lambda blob, shape: (shapes.append(shape), decode(blob, shape))[1]
    )
    return shapes


# ---- the rule


@pytest.mark.parametrize(
    ("side", "size", "width"),
    [
        (180, (180, 180), 180),
        (180, (375, 500), 180),  # 4:3
        (180, (375, 525), 180),  # 7:5
        (180, (1000, 1401), 272),
        (180, (2000, 3000), 272),
        (180, (1000, 1600), 272),
        (180, (1080, 1920), 320),
        (180, (300, 3000), 320),
        (80, (1080, 1920), 144),
        (8, (9, 16), 16),
        (1, (1, 2), 4),
    ],
)
def test_which_photos_need_which_width(side, size, width):
    for sizes in ([size], [size[::-1]], [size, size[::-1]] * 5):
        assert stored_shape(np.array(sizes, np.int32), side) == (side, width)


def test_a_quarter_of_long_photos_changes_nothing():
    square, three_two, sixteen_nine = (400, 400), (400, 600), (1600, 900)
    for few, share, width in (
        ([sixteen_nine], 25, 180),
        ([sixteen_nine], 26, 320),
        ([three_two], 26, 272),
        ([three_two, sixteen_nine], 13, 272),  # both are too long for a square
        ([three_two, sixteen_nine], 26, 320),
    ):
        sizes = few * share
        sizes += [square] * (100 - len(sizes))
        assert stored_shape(np.array(sizes), 180) == (180, width), (few, share)
    assert stored_shape(np.empty((0, 2), np.int32), 180) == (180, 180)


def test_the_header_tells_the_size():
    kinds = ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"]
    turned = Image.Exif()
    turned[274] = 6
    for kind in kinds:
        assert read_size(noise(0, 30, 50, kind)) == (30, 50), kind
    assert read_size(noise(0, 30, 50, "JPEG", exif=turned)) == (30, 50)
    for blob in (b"", b"\xff\xd8\xff", b"RIFF1234WEBPVP8 ", noise(0, 9, 9)[:20], bytes(100)):
        with pytest.raises(BadImage):
            read_size(blob)


# ---- decoding


def test_a_photo_fills_the_shape_and_a_tall_one_lies_on_its_side():
    for seed, (height, width) in enumerate([(36, 64), (64, 36), (50, 50), (33, 60), (61, 30)]):
        blob = noise(seed, height, width)
        pixels, *size = decode(blob, (18, 32))
        assert size == [height, width]
        assert pixels.flags.c_contiguous
        upright = Image.open(io.BytesIO(blob))
        if height > width:
            upright = upright.transpose(Image.Transpose.TRANSPOSE)
        want = np.asarray(upright.resize((32, 18), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
        assert np.abs(pixels.astype(int) - want).max() <= 1  # Pillow rounds between the two axes


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_and_shrinking_jpegs_on_the_way_to_a_wide_shape(orientation):
    """A file that lies on its side is turned up, and down again into the store."""
    drawing = Image.open(io.BytesIO(noise(3, 360, 640)))
    back = [None, None, 0, 3, 1, 5, 2, 6, 4][orientation]  # Pillow's number of the inverse
    for upright in (drawing, drawing.transpose(Image.Transpose.TRANSPOSE)):
        file, exif = upright if back is None else upright.transpose(back), Image.Exif()
        exif[274] = orientation
        stream = io.BytesIO()
        file.save(stream, "JPEG", quality=95, exif=exif)
        pixels, *size = decode(stream.getvalue(), (18, 32))
        assert size == [upright.height, upright.width]
        want = np.asarray(drawing.resize((32, 18), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
        assert np.abs(pixels.astype(int) - want).mean() < 2


def test_nearly_square_photos_are_turned_by_their_own_size():
    """Not by that of the JPEG once it is shrunk, which may be square."""
    coarse = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 5, 3), dtype=np.uint8))
    stream = io.BytesIO()
    coarse.resize((1001, 1007), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=95)
    turned, height, width = decode(stream.getvalue(), (36, 64))
    assert (height, width) == (1007, 1001)
    want = np.asarray(coarse.resize((1001, 1007), 3).resize((36, 64), 3)).transpose(2, 1, 0)
    assert np.abs(turned.astype(int) - want).mean() < 2


# ---- packs


def is_as_if_decoded(photos, content, size):
    assert photos.shape == size
    assert sorted(photos.names) == sorted(content)
    for row, name in enumerate(photos.names):
        pixels, *height_and_width = decode(content[name], size)
        np.testing.assert_array_equal(photos.images[row], pixels)
        assert photos.sizes[row].tolist() == height_and_width


def test_packs_of_squares_are_those_of_earlier_versions(cache, tmp_path):
    """Their name and their pixels are as recorded before there were others."""
    photos = opened(write_zip(tmp_path / "pets.zip", pets(3) | {"PetImages/x.jpg": b""}), 6,
                    skip_broken=True)  # fmt: skip
    assert photos.folder.name == "pets.zip-dd162799424eb291"
    manifest = (photos.folder / "manifest.json").read_text()
    assert "width" not in manifest
    images = hashlib.sha256((photos.folder / "images.npy").read_bytes())
    assert images.hexdigest().startswith("c77625fb13cb1b71")


@pytest.mark.parametrize("write", LAYOUTS)
def test_a_pack_of_long_photos(cache, tmp_path, decoded, write):
    content = long_photos(12)
    photos = opened(write(tmp_path / LAYOUTS[write], content))
    is_as_if_decoded(photos, content, (8, 16))
    assert photos.describe_shape() == "8 x 16"
    assert np.load(photos.folder / "images.npy").shape == (12, 3, 8, 16)
    again = opened(tmp_path / LAYOUTS[write])
    assert (again.folder, len(decoded)) == (photos.folder, 12)


def test_one_pack_for_the_same_photos_in_any_order(cache, tmp_path, decoded):
    content = long_photos(12) | pets(6)
    turned = dict(reversed(content.items()))
    packs = {opened(write(tmp_path / LAYOUTS[write], some)).folder
             for write, some in zip(LAYOUTS, (content, turned, turned), strict=True)}  # fmt: skip
    assert (len(packs), len(decoded)) == (1, 24)


@pytest.mark.parametrize(
    ("content", "size", "wrong"),
    [
        (pets(3) | long_photos(12), (8, 16), "8 px"),
        (long_photos(4) | pets(10), (8, 8), "8 x 16 px"),
    ],
)
def test_a_wrong_guess_is_put_right(
    cache, tmp_path, decoded, monkeypatch, capsys, content, size, wrong
):
    """The first photos of a tar tell nothing of the others."""
    monkeypatch.setattr(shape, "SAMPLE", 4)
    photos = opened(write_tar(tmp_path / "in.tar", content))
    is_as_if_decoded(photos, content, size)
    assert f"the first guess, {wrong}, does not fit" in capsys.readouterr().err
    assert len(decoded) == 2 * len(content)
    opened(tmp_path / "in.tar")
    assert len(decoded) == 2 * len(content)


def test_the_guess_looks_at_photos_all_over_the_source(cache, tmp_path, decoded, monkeypatch):
    monkeypatch.setattr(shape, "SAMPLE", 9)
    content = pets(6) | {f"z/{name}": blob for name, blob in long_photos(24).items()}
    for write in (write_zip, write_folder):
        photos = opened(write(tmp_path / LAYOUTS[write], content), 8 if write is write_zip else 12)
        assert photos.shape == ((8, 16) if write is write_zip else (12, 24))
    assert len(decoded) == 2 * len(content)


def test_the_guess_reads_no_more_than_some_of_large_files(cache, tmp_path, monkeypatch):
    sizes = []
    monkeypatch.setattr(
        "data.items.read_size", lambda blob: (sizes.append(len(blob)), read_size(blob))[1]
    )
    content = long_photos(12)
    monkeypatch.setattr(shape, "SAMPLE_BYTES", sum(map(len, content.values())) // 2)
    assert opened(write_folder(tmp_path / "in", content)).shape == (8, 16)
    assert 0 < sum(sizes) <= shape.SAMPLE_BYTES


def test_broken_and_odd_files_do_not_hinder_the_guess(cache, tmp_path, decoded):
    content = long_photos(12)
    others = {"wide/broken.jpg": b"\xff\xd8\xffno photo", "wide/note": b"hello", "wide/0.jpg": b""}
    photos = opened(write_zip(tmp_path / "in.zip", others | content), skip_broken=True)
    assert len(photos.skipped) == 2
    is_as_if_decoded(photos, content, (8, 16))


def test_squares_of_an_earlier_version_are_not_read_as_another_shape(
    cache, tmp_path, decoded, monkeypatch, capsys
):
    content = long_photos(12)
    folder = write_folder(tmp_path / "in", content)
    with monkeypatch.context() as earlier:
        earlier.setattr(shape, "STEPS", ())
        old = opened(folder)
        is_as_if_decoded(old, content, (8, 8))
    new = open_photos(str(folder), 8)
    is_as_if_decoded(new, content, (8, 16))
    assert new.folder != old.folder
    assert len(decoded) == 24
    told = capsys.readouterr().err
    assert "stored at 8 x 16 px now" in told
    assert f"rm -r {old.folder}" in told
    assert opened(folder).folder == new.folder
    assert len(decoded) == 24


def test_photos_that_join_keep_the_shape_or_change_it(cache, tmp_path, decoded, capsys):
    folder = write_folder(tmp_path / "in", pets(6))
    content = dict(pets(6))

    def join(more):
        decoded.clear()
        content.update(more)
        write_folder(folder, more)
        photos = open_photos(str(folder), 8)
        return photos, capsys.readouterr().err

    join({})
    tall = {f"tall/{n}.png": noise(n, 32, 18) for n in range(4)}
    photos, told = join(tall)  # 4 of 16 are long: a quarter
    is_as_if_decoded(photos, content, (8, 8))
    assert decoded == [(8, 8)] * 4
    assert "px now" not in told
    photos, told = join({"tall/4.png": noise(4, 32, 18)})
    is_as_if_decoded(photos, content, (8, 16))
    assert decoded == [(8, 16)] * 17
    assert "the photos are stored at 8 x 16 px now" in told
    photos, told = join({"tall/5.png": noise(5, 32, 18)})
    is_as_if_decoded(photos, content, (8, 16))
    assert decoded == [(8, 16)]
    assert "px now" not in told
    photos, told = join({f"{n}.png": png(90 + n) for n in range(8)})
    is_as_if_decoded(photos, content, (8, 8))
    assert decoded == [(8, 8)] * 10  # the other 16 are in the second pack of squares


def test_a_packing_that_is_killed_half_way(cache, tmp_path, monkeypatch):
    content = long_photos(40)
    folder = write_folder(tmp_path / "in", content)

    def killed():
        calls = itertools.count()

        def stop(blob, size):
            if next(calls) == 25:
                os._exit(9)
            return decode(blob, size)

        monkeypatch.setattr("data.items.decode", stop)
        opened(folder)

    process = multiprocessing.get_context("fork").Process(target=killed)
    process.start()
    process.join(60)
    assert process.exitcode == 9
    assert [path.name.startswith(".tmp-") for path in cache.iterdir()] == [True]
    is_as_if_decoded(opened(folder), content, (8, 16))


def test_images_without_files_are_squares_and_none_is_drawn_to_guess(monkeypatch):
    monkeypatch.setattr(cartoons, "draw", lambda *_: pytest.fail("drawn"))
    assert shape.guess_shape(sources.find_source("cartoons"), 40) == (40, 40)


def test_a_source_without_a_photo(cache, tmp_path):
    with pytest.raises(UserError, match="2 of 2 files cannot be used"):
        opened(write_zip(tmp_path / "in.zip", {"a.jpg": b"", "b.png": b"\x89PNG"}))
