"""Arrays and texts in files, against numpy's own reading and plain lists; files that change."""

import os

import numpy as np
import pytest
from photo_files import stored

from byol.errors import UserError
from data.stored import StoredArray, Texts, npy_header, read_texts, write_array, write_texts


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.npy"


@pytest.mark.parametrize("shape", [(0,), (5,), (4, 2), (3, 3, 2, 2), (0, 2)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.bool_])
def test_an_array_comes_back(path, shape, dtype):
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    one = stored(path, array)
    np.testing.assert_array_equal(np.load(path), array)  # a plain .npy to everyone else
    np.testing.assert_array_equal(one.read_all(), array)
    np.testing.assert_array_equal(one[:], array)
    assert (len(one), one.shape, one.dtype, one.nbytes) == (
        len(array), shape, array.dtype, array.nbytes,
    )  # fmt: skip
    other = np.int16 if dtype != np.int16 else np.int8
    for wrong in ((other, shape), (dtype, (*shape, 1))):
        with pytest.raises(ValueError, match=r"a\.npy does not hold"):
            StoredArray(path, *wrong)


def test_rows(path):
    array = np.random.default_rng(0).integers(0, 256, (20, 3, 4, 4), np.uint8)
    one = stored(path, array)
    for index in (0, 19, -1, slice(3, 7), slice(None, None, -2), [4], [9, 9, 0], np.int64(5)):
        np.testing.assert_array_equal(one[index], array[index])
    assert one[[]].shape == (0, 3, 4, 4)
    with pytest.raises(IndexError):
        one[20]


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (25_000, 3, 180, 180), (10**9,), (10**9, 2)])
def test_the_header_is_that_of_numpy(path, shape):
    header = npy_header(np.int32, shape)
    assert len(header) == 128
    path.write_bytes(header)
    with open(path, "rb") as file:
        assert np.lib.format.read_magic(file) == (1, 0)
        assert np.lib.format.read_array_header_1_0(file) == (shape, False, np.int32)


def test_a_garbled_header_is_refused(path):
    write_array(path, np.arange(20))
    sound = path.read_bytes()
    for place in range(128):
        path.write_bytes(sound[:place] + b"!" + sound[place + 1 :])
        with pytest.raises(ValueError, match="does not hold"):
            StoredArray(path, np.int64, (20,))


@pytest.mark.parametrize("size", [0, 100, 128, 287, 289])
def test_another_length_is_refused(path, size):
    write_array(path, np.arange(20))
    os.truncate(path, size)
    with pytest.raises(ValueError, match=r"a\.npy"):
        StoredArray(path, np.int64, (20,))


def overwrite(path):
    with open(path, "r+b") as file:
        file.seek(500)
        file.write(b"x")


@pytest.mark.parametrize(
    ("harm", "what"),
    [
        (lambda path: os.truncate(path, 0), "was cut"),
        (lambda path: os.truncate(path, 128 + 999 * 8 + 3), "was cut"),
        (lambda path: os.truncate(path, 128 + 1001 * 8), "was written to"),
        (overwrite, "was written to"),
        (lambda path: write_array(path, np.arange(1000)), "was written to"),  # the same again
    ],
)
def test_a_file_that_is_cut_or_written_to(path, harm, what):
    stored(path, np.arange(1000))
    os.utime(path, (1, 1))  # a clock of files may be coarse
    one = StoredArray(path, np.int64, (1000,))
    assert one[999] == 999
    harm(path)
    for read in (
        lambda: one[[999]],
        one.read_all,
        lambda: one[::2] if "written" in what else one[:],
    ):
        with pytest.raises(UserError, match=f"{what} while it was in use: remove the folder"):
            read()


@pytest.mark.parametrize("harm", [os.unlink, lambda path: os.replace(path, f"{path}.old")])
def test_a_file_that_is_deleted_or_moved_is_read_on(path, harm):
    one = stored(path, np.arange(1000))
    harm(path)
    write_array(path, np.zeros(3))
    assert one.read_all().tolist() == list(range(1000))
    assert one[[999, 0]].tolist() == [999, 0]


def test_a_disk_that_fails_is_one_sentence(path, monkeypatch):
    one = stored(path, np.arange(10))

    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(UserError, match=r"a\.npy cannot be read \(Input/output error\)"):
        one[3]


def test_reads_that_end_early_go_on(path, monkeypatch):
    one, preadv = stored(path, np.arange(100)), os.preadv
    monkeypatch.setattr(os, "preadv", lambda file, into, at: preadv(file, [into[0][:7]], at))
    assert one.read_all().tolist() == list(range(100))


def test_what_is_read_next_is_asked_for_before(path, monkeypatch):
    """All of it before the first byte is read: then the disk has all requests at once."""
    array = np.random.default_rng(0).integers(0, 256, (20, 3, 4, 4), np.uint8)
    one, calls, preadv = stored(path, array), [], os.preadv
    advise = ("posix_fadvise", lambda file, *what: calls.append(what))
    monkeypatch.setattr(os, *advise, raising=False)
    monkeypatch.setattr(os, "preadv", lambda *args: (calls.append("read"), preadv(*args))[1])
    rows = np.array([7, 3, 3])
    np.testing.assert_array_equal(one[rows], array[rows])
    asked = [(128 + 48 * row, 48, os.POSIX_FADV_WILLNEED) for row in (7, 3, 3)]
    assert calls == [*asked, "read", "read", "read"]


@pytest.mark.parametrize("there", [True, False])
def test_rows_are_read_where_nothing_can_be_asked_for(path, monkeypatch, there):
    def refuse(*_):
        raise OSError(29, "Illegal seek")

    one = stored(path, np.arange(100))
    if there:
        monkeypatch.setattr(os, "posix_fadvise", refuse)
    else:
        monkeypatch.delattr(os, "posix_fadvise")
    assert one[[5, 3]].tolist() == [5, 3]


def test_it_is_closed_when_it_is_gone(path):
    one = stored(path, np.arange(10))
    number = one._file
    assert os.fstat(number).st_ino == path.stat().st_ino
    del one
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


# ---- texts ----

ODD = [
    "a",
    "",
    "é",
    "日本語/\U0001f600.png",
    "\udcff",
    "\ud83d",
    "\ude00",
    "a\nb\0c",
    "",
    "z" * 5000,
]


def stored_texts(folder, texts) -> Texts:
    write_texts(folder, "names", texts)
    return read_texts(folder, "names", len(texts))


@pytest.mark.parametrize(
    "texts", [ODD, [], ["", ""], ["one"], [f"{'é' * (i % 7)}{i}" for i in range(2500)]]
)
def test_texts_are_a_plain_list(tmp_path, texts):
    lazy = stored_texts(tmp_path, texts)
    assert list(lazy) == texts
    assert lazy == texts
    assert texts == lazy
    assert lazy == stored_texts(tmp_path, texts)
    assert len(lazy) == len(texts)
    assert [lazy[i] for i in range(len(texts))] == texts
    assert [lazy[np.int64(i)] for i in range(-len(texts), 0)] == texts
    for start, stop, step in [(0, 3, 1), (None, None, None), (-3, None, 1), (9, 1, -2), (5, 99, 3)]:
        assert lazy[start:stop:step] == texts[start:stop:step]
    assert list(reversed(lazy)) == texts[::-1]
    for outside in (len(texts), -len(texts) - 1):
        with pytest.raises(IndexError, match=f"no item {outside} "):
            lazy[outside]


def test_texts_know_where_one_is(tmp_path):
    lazy = stored_texts(tmp_path, ODD)
    assert [lazy.index(text) for text in ODD] == [ODD.index(text) for text in ODD]
    assert "\udcff" in lazy
    assert "\udcfe" not in lazy
    assert lazy.count("") == 2


@pytest.mark.parametrize(
    "other", [[], ODD[:-1], [*ODD, ""], ["b", *ODD[1:]], tuple(ODD), "a", None]
)
def test_texts_differ(tmp_path, other):
    assert stored_texts(tmp_path, ODD) != other


def test_texts_cannot_be_changed(tmp_path):
    lazy = stored_texts(tmp_path, ODD)
    with pytest.raises(TypeError):
        lazy[0] = "b"
    with pytest.raises(TypeError):
        lazy["a"]


@pytest.mark.parametrize("count", [0, 1, 3, 1500])
def test_pairs_of_texts(tmp_path, count):
    pairs = [(f"é{i}", "\udcff" * (i % 3)) for i in range(count)]
    write_texts(tmp_path, "skipped", (text for pair in pairs for text in pair))
    lazy = read_texts(tmp_path, "skipped", count, 2)
    assert lazy == pairs
    assert len(lazy) == count
    assert lazy[-2:] == pairs[-2:]
    assert [lazy[i] for i in range(count)] == pairs
