"""Lists of text in files, against plain lists."""

import numpy as np
import pytest

from data.columns import Texts, read_texts, write_texts

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


def stored(folder, texts) -> Texts:
    write_texts(folder, "names", texts)
    return read_texts(folder, "names", len(texts))


@pytest.mark.parametrize(
    "texts", [ODD, [], ["", ""], ["one"], [f"{'é' * (i % 7)}{i}" for i in range(2500)]]
)
def test_texts_are_a_plain_list(tmp_path, texts):
    lazy = stored(tmp_path, texts)
    assert list(lazy) == texts
    assert lazy == texts
    assert texts == lazy
    assert lazy == stored(tmp_path, texts)
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
    lazy = stored(tmp_path, ODD)
    assert [lazy.index(text) for text in ODD] == [ODD.index(text) for text in ODD]
    assert "\udcff" in lazy
    assert "\udcfe" not in lazy
    assert lazy.count("") == 2


@pytest.mark.parametrize(
    "other", [[], ODD[:-1], [*ODD, ""], ["b", *ODD[1:]], tuple(ODD), "a", None]
)
def test_texts_differ(tmp_path, other):
    assert stored(tmp_path, ODD) != other


def test_texts_cannot_be_changed(tmp_path):
    lazy = stored(tmp_path, ODD)
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
