"""How pictures look: colours that colour-blind eyes tell apart, lines and hatches for print."""

from __future__ import annotations

from byol.errors import printable

# Okabe and Ito's palette
WEIGHTS = {
    "random": {"color": "#D55E00", "linestyle": "--", "hatch": "//", "label": "random weights"},
    "byol": {"color": "#0072B2", "linestyle": "-", "hatch": "", "label": "BYOL weights"},
}
REPRESENTATIONS = {"avgpool": ("#0072B2", ""), "combined": ("#E69F00", "//")}
LINES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
TRAINED = {False: "full model", True: "frozen backbone"}  # by whether the encoder is frozen
MOST_IN_LEGEND = 12


def plain(text: str) -> str:
    """Escape a text for a picture: dollars set off formulas, lone surrogates are errors."""
    return printable(text).replace("$", r"\$")
