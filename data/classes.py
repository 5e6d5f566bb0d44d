"""Read classes and test splits off the folder names of a source.

The rule, repeated on the leading folders until nothing changes:

1. Images in a folder called `unlabelled`, `unlabeled` or `unsup` have no class.
2. A split folder is taken off: `train` (`training`, `training_set`, `train2017`, ...), and
   `test`, `val`, `valid`, `validation` in the same forms, which mark their images as test.
   `train` is a class only if it holds images itself and stands beside class folders.
3. One folder around all that is left is taken off, such as `PetImages/`.

The first folder that then remains is the class; images with none left have no class.
"""

from __future__ import annotations

import re
from collections import defaultdict

import numpy as np

UNLABELLED = ("unlabelled", "unlabeled", "unsup")
SPLIT = re.compile(
    r"(?:(train|training)|test|testing|val|valid|validation)(?:[-_]?(?:set|data|images?|\d+))?",
    re.IGNORECASE,
)


def classify(names: list[str]) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Labels (N,) int64 with -1 for none, the sorted class names, and is_test (N,) bool."""
    numbers: dict[str, int] = {}  # of each folder that holds images, "a/b/"
    folder_of = np.array(
        [numbers.setdefault(name[: name.rfind("/") + 1], len(numbers)) for name in names], np.int64
    )
    folders = [folder.split("/")[:-1] for folder in numbers]
    is_test = np.zeros(len(folders), bool)
    changed = True
    while changed:
        changed = False
        tops: dict[str, list[int]] = defaultdict(list)
        for number, path in enumerate(folders):
            if path:
                tops[path[0]].append(number)
        plain = [top for top in tops if top.lower() not in UNLABELLED and not SPLIT.fullmatch(top)]
        for top, inside in tops.items():
            split = SPLIT.fullmatch(top)
            if top.lower() in UNLABELLED:
                strip = None
            elif split:
                if split[1] and plain and any(len(folders[i]) == 1 for i in inside):
                    continue
                strip = 1
                is_test[inside] |= not split[1]
            elif len(tops) == 1:
                strip = 1
            else:
                continue
            changed = True
            for i in inside:
                folders[i] = folders[i][strip:] if strip else []
    classes = sorted({path[0] for path in folders if path})
    index = {name: label for label, name in enumerate(classes)}
    labels = np.array([index[path[0]] if path else -1 for path in folders], np.int64)
    return labels[folder_of], classes, is_test[folder_of]
