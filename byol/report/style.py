"""How pictures look: colours that colour-blind eyes tell apart, lines and hatches for print."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from byol.errors import printable

# Okabe and Ito's palette
WEIGHTS = {
    "random": {"color": "#D55E00", "linestyle": "--", "hatch": "//", "label": "random weights"},
    "byol": {"color": "#0072B2", "linestyle": "-", "hatch": "", "label": "BYOL weights"},
    "imagenet": {"color": "#009E73", "linestyle": "-.", "hatch": "..", "label": "ImageNet weights"},
}
REPRESENTATIONS = {"avgpool": ("#0072B2", ""), "combined": ("#E69F00", "//")}
LINES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
CLASSES = (*LINES, "#000000")  # of the largest classes
OTHER_CLASSES = "#999999"
FROZEN, FULL, SELF_TRAINED = "frozen", "full", "self-trained"  # what learned, and how
TRAINED = {FROZEN: "frozen backbone", FULL: "full model", SELF_TRAINED: "self-trained"}
MOST_IN_LEGEND = 12


def kinds_of(groups: Iterable[tuple[str, str]]) -> list[str]:
    """List what learned in some groups, (init, trained): always frozen and full, in their order."""
    there = {trained for _, trained in groups}
    return [trained for trained in TRAINED if trained in there or trained != SELF_TRAINED]


def styles_of(starts: Iterable[str]) -> dict[str, dict]:
    """Give the style of each start: always of random and BYOL, of others if they are in `starts`.

    A start that is the name of a file gets one of the colours that are left.
    """
    styles = {start: WEIGHTS[start] for start in ("random", "byol")}
    left = itertools.cycle([c for c in LINES if c not in {s["color"] for s in WEIGHTS.values()}])
    for start in sorted(set(starts) - styles.keys()):
        of_file = {"linestyle": ":", "hatch": "xx", "label": f"weights of {printable(start)}"}
        styles[start] = WEIGHTS.get(start) or {"color": next(left), **of_file}
    return styles


def accuracy_name(summary: dict) -> str:
    """Name the accuracy of a classifier by what it was judged on, as summary.json says it."""
    by_folds = summary.get("tested_on") == "cross-validation"
    return "cross-validated accuracy" if by_folds else "test accuracy"


def plain(text: str) -> str:
    """Escape a text for a picture: dollars set off formulas, lone surrogates are errors."""
    return printable(text).replace("$", r"\$")
