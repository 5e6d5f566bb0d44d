"""Read classes and test splits off the folder names of a source.

The rule, repeated on the leading folders until nothing changes:

1. Images in a folder called `unlabelled`, `unlabeled` or `unsup` have no class.
2. A split folder is taken off: `train` (`training`, `training_set`, `train2017`, ...), and
   `test`, `val`, `valid`, `validation` in the same forms, which mark their images as test.
   Only where `train` holds images itself and stands beside class folders is it a class.
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
    folders = [name.split("/")[:-1] for name in names]
    is_test = np.zeros(len(names), bool)
    changed = True
    while changed:
        changed = False
        tops: dict[str, list[int]] = defaultdict(list)
        for row, path in enumerate(folders):
            if path:
                tops[path[0]].append(row)
        plain = [top for top in tops if top.lower() not in UNLABELLED and not SPLIT.fullmatch(top)]
        for top, rows in tops.items():
            split = SPLIT.fullmatch(top)
            if top.lower() in UNLABELLED:
                strip = None
            elif split:
                if split[1] and plain and any(len(folders[row]) == 1 for row in rows):
                    continue
                strip = 1
                is_test[rows] |= not split[1]
            elif len(tops) == 1:
                strip = 1
            else:
                continue
            changed = True
            for row in rows:
                folders[row] = folders[row][strip:] if strip else []
    classes = sorted({path[0] for path in folders if path})
    index = {name: label for label, name in enumerate(classes)}
    labels = [index[path[0]] if path else -1 for path in folders]
    return np.array(labels, dtype=np.int64), classes, is_test
