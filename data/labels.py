"""Labels and groups of photos that the class folders of --data do not say.

Labels come from the folders of a second source (--labelled), from a table (--labels-file), from
the path of each photo (--label-pattern), or from the folder of a given number (--classes-at).
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from byol.errors import UserError, note, printable
from data.classes import Layout, classify
from data.items import Item, Loaded, Passed
from data.kinds import PassedOver
from data.sources import Source

LABELLED, OTHERS = "labelled/", "data/"  # what names begin with if there is --labelled
NAMED = 3  # photos, of each kind that is counted
COLUMNS = ("file", "label")


# ---- two sources


def join(labelled: Source, others: Source) -> Source:
    """Make one source of two; names begin with `LABELLED` or `OTHERS`, and the labelled are first.

    So a photo that is in both is found in time (see `_read` in data/packing.py).
    """
    parts = [(LABELLED, labelled), (OTHERS, others)]
    counts = [source.count for _, source in parts]

    def count() -> int | None:
        numbers = [count() for count in counts]
        return None if None in numbers else sum(numbers)

    passed = PassedOver()
    for prefix, source in parts:
        kinds = source.passed.kinds.items()
        passed += PassedOver({k: [n, [prefix + name for name in some]] for k, (n, some) in kinds})
    return Source(
        title=f"{others.title[:30]}+{labelled.title[:29]}",
        place=f"{others.place} + {labelled.place}",
        identity=f"joined:{labelled.identity}\n{others.identity}",
        count=count,
        items=lambda: chain.from_iterable(_prefixed(*part) for part in parts),
        passed=passed,
        empty=[prefix + name for prefix, source in parts for name in source.empty],
        joined=True,
    )


def _prefixed(prefix: str, source: Source) -> Iterator[Item | Passed]:
    def loading(load):
        def prefixed(*args) -> Loaded:
            loaded = load(*args)
            return loaded._replace(name=prefix + loaded.name)

        return prefixed

    for item in source.items():
        if isinstance(item, Passed):
            yield Passed(item.kind, prefix + item.name)
        else:
            yield item._replace(name=prefix + item.name, load=loading(item.load))


# ---- labels


def read_layout(
    photos,
    *,
    classes_at: int | None = None,
    labelled: str | None = None,
    labels_file: str | None = None,
    label_pattern: str | None = None,
) -> Layout:
    """Read the labels of all photos from where these settings say. Lines on stderr tell of them.

    A table and a pattern leave the test as the rules of data/classes.py have it. Raises `UserError`
    if no photo gets a label.
    """
    names, source = list(photos.names), photos.source
    if labelled is not None:
        return _by_folders_of_labelled(names, labelled, classes_at)
    if labels_file is not None:
        texts, told = _by_table(names, labels_file, source)
    elif label_pattern is not None:
        texts, told = _by_pattern(names, label_pattern, source)
    else:
        return _by_level(names, classes_at, source)
    note(told)
    return _drop_test_only(_layout_of(texts, photos))


def _by_level(names: list[str], classes_at: int | None, source: str) -> Layout:
    layout = classify(names, classes_at)
    if classes_at is not None and not layout.classes:
        deepest = max(name.count("/") for name in names)
        raise UserError(
            f"--classes-at {classes_at}: no photo of --data {printable(source)} has a class "
            f"there, and the deepest path has {deepest} folders: give another number, or auto for "
            "the rules of docs/own_photos.md"
        )
    return layout


def _by_folders_of_labelled(names: list[str], labelled: str, classes_at: int | None) -> Layout:
    """Read the folders below --labelled. The photos of --data get no label and are no test."""
    rows = np.array([row for row, name in enumerate(names) if name.startswith(LABELLED)], np.int64)
    below = classify([names[row].removeprefix(LABELLED) for row in rows], classes_at)
    if not below.classes:
        raise UserError(
            f"--labelled {printable(labelled)}: no photo of it lies in a class folder; put each "
            "class in a folder of its own, such as sorted/cat and sorted/dog"
        )
    labels, is_test = np.full(len(names), -1, np.int64), np.zeros(len(names), bool)
    labels[rows], is_test[rows] = below.labels, below.is_test
    return dataclasses.replace(below, labels=labels, is_test=is_test)


def _by_table(names: list[str], path: str, source: str) -> tuple[list[str], str]:
    """Give the label of each photo by a table, nothing for those without, and what to tell."""
    table = read_table(path)
    flag = f"--labels-file {printable(path)}"
    keys = [_key(name) for name in names]
    texts = [table.get(key, "") for key in keys]
    lacking = [name for name, key in zip(names, keys, strict=True) if key not in table]
    unknown = sorted(table.keys() - set(keys))
    if len(unknown) == len(table):
        raise UserError(
            f"{flag}: none of its {len(table):,} files is a photo of --data {printable(source)}; "
            f"write paths below that, such as {printable(names[0])}"
        )
    if not any(texts):
        raise UserError(f"{flag}: no photo has a label there; fill in its column label")
    empty = sum(1 for key in keys if table.get(key) == "")
    parts = [f"{len(names) - texts.count(''):,} photos have a label"]
    parts += [f"{empty:,} have an empty one"] * bool(empty)
    parts += [f"not in it, and so unlabelled: {_some(lacking)}"] * bool(lacking)
    parts += [f"in it, but no photo that can be used: {_some(unknown)}"] * bool(unknown)
    return texts, f"{flag}: {'; '.join(parts)}"


def read_table(path: str) -> dict[str, str]:
    """Read a CSV file with the columns `COLUMNS`: label by file, "" for an empty label.

    Raises `UserError` for a file that cannot be read, wrong columns, and a file with two labels.
    """
    flag, table, lines = f"--labels-file {printable(path)}", {}, {}
    try:
        with open(Path(path).expanduser(), encoding="utf-8-sig", newline="") as stream:
            rows = csv.reader(stream, strict=True)
            header = [cell.strip().casefold() for cell in next(rows, [])]
            if any(header.count(name) != 1 for name in COLUMNS):
                raise UserError(
                    f"{flag} has the columns {printable(', '.join(header)[:200]) or 'of nothing'}; "
                    "its first line must be file,label, separated by a comma"
                )
            file_at, label_at = (header.index(name) for name in COLUMNS)
            for row in rows:
                if not row:  # an empty line
                    continue
                if len(row) != len(header):
                    raise UserError(
                        f"{flag}: line {rows.line_num} has {len(row)} columns, and the first has "
                        f"{len(header)}; put a name with a comma in double quotes"
                    )
                key, label = _key(row[file_at]), unicodedata.normalize("NFC", row[label_at].strip())
                if table.setdefault(key, label) != label:
                    raise UserError(
                        f"{flag}: {printable(row[file_at])} has two labels, "
                        f"{printable(table[key]) or 'none'} in line {lines[key]} and "
                        f"{printable(label) or 'none'} in line {rows.line_num}; leave one"
                    )
                lines.setdefault(key, rows.line_num)
    except UnicodeDecodeError:
        raise UserError(f"{flag} is not UTF-8 text; save it as CSV in UTF-8") from None
    except csv.Error as error:
        raise UserError(f"{flag} cannot be read as CSV ({error}); save it as CSV again") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{flag} cannot be read ({reason}); check the path") from None
    if not table:
        raise UserError(f"{flag} has no line below its header; add one for each labelled photo")
    return table


def _key(name: str) -> str:
    """Give a path one form: accents, `./` in front and the slashes of Windows do not matter."""
    name = unicodedata.normalize("NFC", name.strip()).replace("\\", "/")
    return name.removeprefix("./")


def _by_pattern(names: list[str], pattern: str, source: str) -> tuple[list[str], str]:
    """Give the label of each photo by a pattern, nothing for those without, and what to tell."""
    flag = f"--label-pattern {printable(pattern)}"
    texts = find_texts(names, pattern, flag)
    lacking = [name for name, text in zip(names, texts, strict=True) if not text]
    if len(lacking) == len(names):
        raise UserError(
            f"{flag} matches no path below --data {printable(source)}, such as "
            f"{printable(names[0])}; mend it"
        )
    found = f"{flag}: {len(names) - len(lacking):,} photos have a label"
    return texts, found + (f"; unlabelled: {_some(lacking)}" if lacking else "")


def find_texts(names: list[str], pattern: str, flag: str) -> list[str]:
    """Find in each name the first group of the pattern, or the whole match if it has no group.

    Gives "" for a name without it. Raises `UserError` if the pattern is no regular expression.
    """
    try:
        compiled = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        reason = printable(str(error))
        raise UserError(f"{flag} is no regular expression ({reason}); mend it") from None
    group = 1 if compiled.groups else 0
    found = (compiled.search(unicodedata.normalize("NFC", name)) for name in names)
    return [(match[group] or "").strip() if match else "" for match in found]


def _layout_of(texts: list[str], tests) -> Layout:
    """Make a layout of these labels, with the test of `tests` (photos or another layout)."""
    classes = sorted(set(texts) - {""})
    index = {name: label for label, name in enumerate(classes)} | {"": -1}
    labels = np.array([index[text] for text in texts], np.int64)
    return Layout(labels, classes, tests.is_test, tests.test_folders)


def _drop_test_only(layout: Layout) -> Layout:
    """Take the label off photos of classes that the test alone has: nothing could learn them."""
    trained = np.unique(layout.labels[~layout.is_test & (layout.labels >= 0)])
    tested = [label for label in range(len(layout.classes)) if label not in set(trained.tolist())]
    if not tested or not len(trained):
        return layout
    names = [layout.classes[label] for label in tested]
    lost = np.isin(layout.labels, tested)
    note(
        f"of {printable(', '.join(names[:NAMED]))} there are photos for the test alone, which "
        f"nothing could learn: they ({lost.sum():,}) count as photos without a class"
    )
    texts = [layout.classes[label] if label in trained else "" for label in layout.labels]
    return _layout_of(texts, layout)


def _some(names: Sequence[str]) -> str:
    """Count names and list the first: "5 (a.jpg, b.jpg, c.jpg, ...)"."""
    more = ", ..." if len(names) > NAMED else ""
    return f"{len(names):,} ({', '.join(printable(name[:300]) for name in names[:NAMED])}{more})"


def digest_of(photos) -> str:
    """Hash the label of each photo, in the order of the names: it says whether labels changed."""
    labels = photos.labels[photos.by_name]
    text = "\0".join(photos.classes).encode("utf-8", "surrogatepass")
    return hashlib.sha256(text + b"\0" + labels.astype("<i8").tobytes()).hexdigest()


# ---- groups


def find_groups(names: Sequence[str], pattern: str, joined: bool) -> np.ndarray:
    """Give each photo the number of its group: int64 (N,). A line on stderr tells of them.

    Photos share a group if the pattern finds the same text in their paths (see `find_texts`). A
    photo in which it finds nothing is a group of its own. Raises `UserError` if it finds nothing in
    any.
    """
    flag = f"--group-by {printable(pattern)}"
    names = list(names)
    if joined:
        names = [name.partition("/")[2] for name in names]
    texts = find_texts(names, pattern, flag)
    numbers: dict[str, int] = {}
    groups = np.array([numbers.setdefault(text, len(numbers)) for text in texts], np.int64)
    alone = np.array([not text for text in texts])
    if alone.all():
        raise UserError(
            f"{flag} matches no path of a photo, such as {printable(names[0])}; mend it"
        )
    groups[alone] = len(numbers) + np.arange(alone.sum())
    lacking = [name for name, text in zip(names, texts, strict=True) if not text]
    note(
        f"{flag}: {len(set(texts) - {''}):,} groups of {(~alone).sum():,} photos"
        + (f"; in no group, each alone: {_some(lacking)}" if lacking else "")
    )
    return groups


def tell_of_torn_groups(photos) -> None:
    """Say on stderr which groups stand on both sides of the source's own test split."""
    torn = np.intersect1d(photos.groups[photos.is_test], photos.groups[~photos.is_test])
    if len(torn):
        rows = [int(np.flatnonzero(photos.groups == group)[0]) for group in torn[:NAMED]]
        note(
            f"{len(torn):,} groups of --group-by stand on both sides of the test split, so that it "
            f"flatters: those of {_some([photos.names[row] for row in rows])}"
        )
