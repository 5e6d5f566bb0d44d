"""Read classes and test splits off the folder names of a source.

The rules, repeated on the leading folders until nothing changes:

1. A folder directly inside one of the same name is taken off.
2. Images in a folder called `unlabelled`, `unlabeled`, `unsup`, `unsorted`, `inbox` or `pred` have
   no class.
3. A split folder is taken off: `train` (`training`, `training_set`, `train2017`, ...), and `test`,
   `val`, `valid`, `validation` in the same forms, which mark their images as test. Longer names are
   splits if at least two of them differ in such a word alone, one of it `train`: `seg_train` and
   `seg_test`. `train` is a class only if it holds images itself and stands beside class folders,
   and not beside a `test`, unless that has a `train` inside.
4. If class folders lie inside `train`, then what stands beside `train` is no class.
5. If `train` and `test` lie inside of each class, `cat/train` and `cat/test`, they are splits.
   If the classes lie inside those, `v1/train/cat` and `v2/train/cat`, then `v1` is taken off.
6. One folder around all that is left is taken off, such as `PetImages/`.

The first folder that then remains is the class; images with none left have no class. `--classes-at`
says which folder it is in place of these rules. What the rules cannot know is told in a sentence.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import combinations, pairwise

import numpy as np

from byol.errors import printable
from data.kinds import IMAGE_FOLDERS, MASKS_BESIDE_IMAGES

RULES = 2  # raise it whenever the rules change: labels in packs of earlier ones are read anew
TRAIN, TEST, NO_CLASS = "train", "test", "no class"
WORDS = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("test", "testing", "val", "valid", "validation"), TEST),
    **dict.fromkeys(("unlabelled", "unlabeled", "unsup", "unsorted", "inbox"), NO_CLASS),
    **dict.fromkeys(("pred", "predict", "prediction", "predictions"), NO_CLASS),
}
SPLIT = re.compile(rf"({'|'.join(WORDS)})(?:[-_ ]?(?:set|data|images?|\d+))?", re.IGNORECASE)
WRAPPERS = IMAGE_FOLDERS | {"data", "jpg", "jpeg", "png", "all", "pics", "files", "imagefiles"}
NO_CLASS_NAMES = {  # what all class names may look like -> what it looks like
    r"(?:19|20)\d\d(?:[-_. ]?\d\d){0,2}\D*|photos from \d{4}": "dates",
    r"\d{3}[a-z_]{5}|\d{3}_\d{4}|dcim": "a camera's folders",
    r"(?:.*[-_ ])?(?:part|images|batch|chunk|shard|vol|disc|folder)[-_ ]?\d+": "parts of one set",
}
BUCKET = re.compile(r"[0-9a-f]{1,2}", re.IGNORECASE)
CAMERA = re.compile(
    r"|_?(?:img|dsc|dscn|dscf|pxl|p|pict|image|photo|picture|gopr|mvi|vid|screenshot|frame)",
    re.IGNORECASE,
)  # how names of files begin that say nothing
SHOWN = 10  # classes in the banner


@dataclass
class Layout:
    """What the folders say.

    labels: int64 (N,), an index into `classes`, -1 for no class
    classes: sorted names
    is_test: bool (N,)
    test_folders: the folders whose images are for the test, with their numbers
    notes: sentences on what was seen and may be meant otherwise
    """

    labels: np.ndarray
    classes: list[str]
    is_test: np.ndarray
    test_folders: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def classify(names: list[str], classes_at: int | None = None) -> Layout:
    """Read the layout off the names, by the rules or by `--classes-at`.

    classes_at: the number of the folder that names the class, 1 for the outermost; 0 for the name
    of the file, without its number and ending.
    """
    places = [name[: name.rfind("/") + 1] for name in names]
    if classes_at == 0:
        places = [place + _stem(name) + "/" for place, name in zip(places, names, strict=True)]
    numbers: dict[str, int] = {}  # of each folder that holds images, "a/b/"
    folder_of = np.array([numbers.setdefault(p, len(numbers)) for p in places], np.int64)
    tree = _Tree(list(numbers), np.bincount(folder_of, minlength=len(numbers)))
    if classes_at is None:
        while tree.take_off_one():
            pass
        tree.note_doubts(names)
    else:
        tree.take_level(classes_at)
    tree.join_and_warn()
    classes = sorted({path for path in tree.classes if path is not None})
    index = {name: label for label, name in enumerate(classes)}
    labels = np.array([index.get(name, -1) for name in tree.classes], np.int64)
    notes = [printable(note) for note in tree.notes]
    tests = dict(sorted(tree.test_folders.items()))
    return Layout(labels[folder_of], classes, tree.is_test[folder_of], tests, notes)


def _stem(name: str) -> str:
    """Give the name of a file without folders, ending and number: "cat" of "train/cat.12.jpg"."""
    stem = name[name.rfind("/") + 1 :].rpartition(".")[0]
    return re.sub(r"[\s._(-]*\d+\)?$", "", stem)


def split_kinds(names: list[str]) -> dict[str, str]:
    """Tell which of the folders side by side are splits: name -> TRAIN, TEST or NO_CLASS."""
    kinds = {name: WORDS[m[1].lower()] for name in names if (m := SPLIT.fullmatch(name))}
    longer = defaultdict(dict)  # what a name says besides its split -> {name: kind}
    for name in names:
        spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
        words = [word for word in re.split(r"[^\w]+|_", spaced.lower()) if word]
        of_split = [word for word in words if word in WORDS]
        if name not in kinds and len(of_split) == 1:
            words.remove(of_split[0])
            longer[tuple(words)][name] = WORDS[of_split[0]]
    for group in longer.values():
        if len(group) > 1 and TRAIN in group.values() and len(set(group.values())) > 1:
            kinds |= group
    return kinds


class _Tree:
    """The folders that hold images, from which leading ones are taken off until the class is left.

    parts: the names of the folders of each path, in one Unicode form
    left: the positions in `parts` that are left of each path
    count: the images in each
    """

    def __init__(self, folders: list[str], count: np.ndarray):
        self.raw = [folder.split("/")[:-1] for folder in folders]
        forms: dict[str, str] = {}
        self.parts = [[forms.setdefault(p, _one_form(p)) for p in path] for path in self.raw]
        self.count = count
        self.left = []
        for path in self.parts:  # of equal names one inside the other the innermost stays
            same = [a.casefold() == b.casefold() for a, b in pairwise(path)]
            self.left.append([at for at in range(len(path)) if at >= len(same) or not same[at]])
        self.is_test = np.zeros(len(folders), bool)
        self.test_folders: Counter[str] = Counter()
        self.notes: list[str] = []
        self.by_rules = True

    def name(self, folder: int, depth: int = 0) -> str | None:
        """Give the name of what is left of a path at this depth; None if it is not so deep."""
        left = self.left[folder]
        return self.parts[folder][left[depth]] if depth < len(left) else None

    def images(self, folders: list[int]) -> int:
        return int(self.count[folders].sum())

    def tops(self) -> dict[str, list[int]]:
        """Group the paths by the first folder that is left of them."""
        tops: dict[str, list[int]] = defaultdict(list)
        for folder, left in enumerate(self.left):
            if left:
                tops[self.parts[folder][left[0]]].append(folder)
        return tops

    # ---- the rules

    def take_off_one(self) -> bool:
        """Apply the rules once. Tells whether anything was taken off."""
        tops = self.tops()
        kinds = split_kinds(list(tops))
        plain = [top for top in tops if top not in kinds]
        tests = [top for top in kinds if kinds[top] == TEST]
        tested = {self.name(folder, 1) for top in tests for folder in tops[top]}
        for top in [top for top in kinds if kinds[top] == TRAIN and plain]:
            direct = any(len(self.left[folder]) == 1 for folder in tops[top])
            if direct and (not tests or top in tested):  # a train as a thing
                del kinds[top]
        if kinds:
            return self.take_off_splits(tops, kinds)
        if len(tops) == 1:
            self.take_off(next(iter(tops.values())))
            return True
        return self.take_off_containers(tops) or self.take_off_wrappers(tops)

    def take_off_splits(self, tops: dict[str, list[int]], kinds: dict[str, str]) -> bool:
        trained = [folder for top in kinds if kinds[top] == TRAIN for folder in tops[top]]
        inside = {self.name(folder, 1) for folder in trained} - {None}
        aside = []
        for top, folders in tops.items():
            kind = kinds.get(top)
            if kind == NO_CLASS:
                self.take_all(folders)
            elif kind:
                self.take_off(folders)
                if kind == TEST:
                    self.keep_for_test(top, folders)
            elif inside and top not in inside:
                if self.splits_inside(folders):
                    self.take_off(folders)
                else:
                    aside.append(top)
        self.put_aside(tops, aside, [top for top in kinds if kinds[top] == TRAIN])
        return True

    def take_off_containers(self, tops: dict[str, list[int]]) -> bool:
        """Handle splits that lie inside of what seems to be classes."""
        holding = {top: kinds for top in tops if (kinds := self.splits_inside(tops[top]))}
        if not holding:
            return False
        classes = {  # inside of what is for training
            top: {
                self.name(folder, 2)
                for folder in tops[top]
                if kinds.get(self.name(folder, 1)) == TRAIN
            }
            - {None}
            for top, kinds in holding.items()
        }
        shared = any(len(a & b) > 1 for a, b in combinations(classes.values(), 2))
        if shared or (len(holding) == 1 and max(map(len, classes.values())) > 1):
            for top in holding:
                self.take_off(tops[top])
            self.put_aside(tops, [top for top in tops if top not in holding], list(holding))
            return True
        trains = any(TRAIN in kinds.values() for kinds in holding.values())
        if not trains and len(holding) < len(tops):
            return False
        deeper = Counter()
        for top, kinds in holding.items():
            for folder in tops[top]:
                kind = kinds.get(self.name(folder, 1))
                if kind == TEST:
                    self.keep_for_test(self.name(folder, 1), [folder])
                if kind and (inner := self.name(folder, 2)):
                    deeper[inner, self.left[folder][2] + 1] += self.images([folder])
                self.left[folder] = [] if kind == NO_CLASS else self.left[folder][:1]
        if len({name for name, _ in deeper}) > 1:
            level = deeper.most_common(1)[0][0][1]
            self.notes.append(
                f"{_listed(list(tops))} are taken for the classes, since train or test lies inside "
                f"of each; if {_listed(sorted({name for name, _ in deeper}))} are, give "
                f"--classes-at {level}"
            )
        return True

    def take_off_wrappers(self, tops: dict[str, list[int]]) -> bool:
        """Take off `images` if it lies around all of the test, or of what is for training."""
        for top in [top for top in tops if top.lower() in WRAPPERS]:
            of_test = self.is_test[tops[top]]
            others = np.concatenate([self.is_test[tops[other]] for other in tops if other != top])
            if (of_test.all() and not others.all()) or (not of_test.any() and others.all()):
                self.take_off(tops[top])
                return True
        return False

    def splits_inside(self, folders: list[int]) -> dict[str, str]:
        """Give the splits one level below: name -> kind; none if there is no train and no test."""
        kinds = split_kinds(list({self.name(folder, 1) for folder in folders} - {None}))
        return kinds if {TRAIN, TEST} & set(kinds.values()) else {}

    def take_off(self, folders: list[int]) -> None:
        for folder in folders:
            self.left[folder] = self.left[folder][1:]

    def take_all(self, folders: list[int]) -> None:
        for folder in folders:
            self.left[folder] = []

    def keep_for_test(self, name: str, folders: list[int]) -> None:
        self.is_test[folders] = True
        self.test_folders[name] += self.images(folders)

    def put_aside(self, tops: dict[str, list[int]], aside: list[str], beside: list[str]) -> None:
        if aside:
            folders = [folder for top in aside for folder in tops[top]]
            self.take_all(folders)
            self.notes.append(
                f"beside {_listed(beside)} lies {_listed(aside)}: as the classes are inside of the "
                f"former, its photos ({self.images(folders):,}) count as photos without a class"
            )

    # ---- --classes-at

    def take_level(self, level: int) -> None:
        """Take one folder of each path for the class: the last one for 0."""
        self.by_rules = False
        deepest = max(map(len, self.parts), default=0)
        for at in range(deepest):
            tops = defaultdict(list)
            for folder, path in enumerate(self.parts):
                if at < len(path) - (level == 0) and at != level - 1:
                    tops[path[at]].append(folder)
            for top, kind in split_kinds(list(tops)).items():
                fresh = [folder for folder in tops[top] if not self.is_test[folder]]
                if kind == TEST:
                    self.keep_for_test(top, fresh)
                elif kind == NO_CLASS:
                    self.take_all(tops[top])
        for folder, path in enumerate(self.parts):
            at = len(path) - 1 if level == 0 else level - 1
            fits = self.left[folder] and at < len(path) and path[at]
            self.left[folder] = [at] if fits else []

    # ---- what to say

    def join_and_warn(self) -> None:
        """Settle `classes`, the class of each path, and tell of those that may be meant otherwise.

        A class of which there are photos in the test alone is none: nothing could learn it.
        """
        self.classes = [self.name(folder) for folder in range(len(self.parts))]
        of_class: dict[str, list[int]] = defaultdict(list)
        forms: dict[str, set[str]] = defaultdict(set)
        alike: dict[str, set[str]] = defaultdict(set)
        for folder, name in enumerate(self.classes):
            if name is not None:
                of_class[name].append(folder)
                forms[name].add(self.raw[folder][self.left[folder][0]])
                alike[_look(name)].add(name)
        for name in sorted(name for name in forms if len(forms[name]) > 1):
            self.notes.append(f"the class {name} is written in two Unicode forms: they are joined")
        for same in sorted(sorted(same) for same in alike.values() if len(same) > 1):
            self.notes.append(
                f"the classes {_listed(same, 'and')} look alike, and count as {len(same)}: if they "
                "are one, give their folders one name"
            )
        tested = sorted(name for name in of_class if self.is_test[of_class[name]].all())
        if tested and not self.is_test.all():
            folders = [folder for name in tested for folder in of_class[name]]
            for folder in folders:
                self.classes[folder] = None
            self.notes.append(
                f"of {_listed(tested)} there are photos for the test alone, which nothing could "
                f"learn: they ({self.images(folders):,}) count as photos without a class"
            )
        elif any(name is not None for name in self.classes):
            lacking = [
                folder for folder, name in enumerate(self.classes)
                if name is None and self.is_test[folder]
            ]  # fmt: skip
            if lacking:
                self.notes.append(
                    f"{self.images(lacking):,} photos for the test lie in no class folder, so that "
                    "nothing is tested on them"
                )

    def note_doubts(self, names: list[str]) -> None:
        """Say what looks like other classes than those that the rules found."""
        tops = self.tops()
        if not tops:
            self.note_file_names(names)
            return
        self.note_deeper(tops)
        lower = {top.lower() for top in tops}
        for pattern, what in NO_CLASS_NAMES.items():
            if len(tops) > 1 and all(re.fullmatch(pattern, top) for top in lower):
                self.note_no_classes(tops, f"look like {what}, not like classes")
        letters = {top for top in lower if not top.isdigit()}
        if len(lower) > 9 and len(letters) > 3 and all(BUCKET.fullmatch(top) for top in lower):
            self.note_no_classes(tops, "look like the drawers of a store, not like classes")
        if lower & MASKS_BESIDE_IMAGES and lower & IMAGE_FOLDERS:
            self.note_no_classes(tops, "look like photos and their masks, not like classes")

    def note_no_classes(self, tops: dict[str, list[int]], what: str) -> None:
        self.notes.append(
            f"the class folders {_listed(sorted(tops))} {what}: give --labels 0 to learn without "
            "them, --classes-at N if another folder names the class, or one of them as --data"
        )

    def note_deeper(self, tops: dict[str, list[int]]) -> None:
        """Say if the same folders lie in each class, as in colour/cat and grey/cat."""
        inside = {
            top: {self.name(folder, 1) for folder in folders} - {None}
            for top, folders in tops.items()
        }
        inside = [found for found in inside.values() if found]
        if len(inside) < 2:
            return
        shared = set.intersection(*inside)
        if len(shared) > 1 and 2 * len(shared) >= len(set.union(*inside)):
            levels = Counter(left[1] + 1 for left in self.left if len(left) > 1)
            self.notes.append(
                f"{_listed(sorted(tops))} are taken for the classes, and each holds the folders "
                f"{_listed(sorted(shared))}: if those are the classes, give --classes-at "
                f"{levels.most_common(1)[0][0]}"
            )

    def note_file_names(self, names: list[str]) -> None:
        """Say if there are no class folders, but the names of files begin like classes."""
        stems = Counter(_stem(name) for name in names)
        usual = [
            stem for stem, count in stems.most_common()
            if count > 1 and not CAMERA.fullmatch(re.sub(r"[\W\d_]+$", "", stem))
        ]  # fmt: skip
        if len(usual) > 1 and 2 * sum(stems[stem] for stem in usual) > len(names):
            self.notes.append(
                f"there are no class folders, but names of files begin with {_listed(usual)}: if "
                "those are the classes, give --classes-at 0"
            )


def describe(photos) -> str:
    """Say how many photos each class has, and what is kept for the test, for one line.

    photos: with `labels`, `classes`, `is_test` and `test_folders`.
    """
    classes, labels, is_test = photos.classes, photos.labels, photos.is_test
    known = labels >= 0
    train = np.bincount(labels[known & ~is_test], minlength=len(classes))
    test = np.bincount(labels[known & is_test], minlength=len(classes))
    listed = [
        f"{printable(name)} {train[label]:,}" + (f" + {test[label]:,} test" if test[label] else "")
        for label, name in enumerate(classes[:SHOWN])
    ]
    if len(classes) > SHOWN:
        listed.append(f"and {len(classes) - SHOWN:,} more")
    parts = [f"{len(classes):,}: {', '.join(listed)}" if classes else "none"]
    if lacking := int((~known).sum()):
        parts.append(f"{lacking:,} photo{'s' * (lacking > 1)} without a class")
    if tests := photos.test_folders:
        folders = _listed([f"{printable(name)} ({count:,})" for name, count in tests.items()])
        together = ", taken together" if len(tests) > 1 else ""
        parts.append(f"for the test: the folder{'s' * (len(tests) > 1)} {folders}{together}")
    else:
        parts.append("no folder for the test")
    return "; ".join(parts)


def _listed(names: list[str], word: str = "and") -> str:
    """List the first three names."""
    if len(names) > 3:
        names = [*names[:2], f"{len(names) - 2:,} more"]
    return f" {word} ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _one_form(name: str) -> str:
    """Give a name in one Unicode form: macOS and Linux write an accent in two ways."""
    return unicodedata.normalize("NFC", name)


def _look(name: str) -> str:
    """Give what a name looks like: without case, spaces and invisible characters."""
    seen = unicodedata.normalize("NFKC", name).casefold()
    return "".join(c for c in seen if not c.isspace() and unicodedata.category(c) != "Cf")
