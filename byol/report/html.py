"""HTML that holds everything: pictures embedded, nothing loaded, every text escaped."""

from __future__ import annotations

import base64
import io
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from byol import __version__
from byol.errors import printable
from byol.report.gallery import Shown

MOST_KB = 300  # of a picture: a larger one becomes a JPEG
WIDEST = 1600  # pixels of a picture on the page
LONGEST = 500  # characters of a text
# Nothing from elsewhere, and no script: only style and pictures that stand in the page itself.
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'"
)
STYLE = Path(__file__).with_name("page.css")


def document(title: str, top: str, sections: dict[str, str]) -> str:
    """Put a page together. top: what comes first. sections: by title; empty ones are left out."""
    sections = {name: content for name, content in sections.items() if content}
    links = "".join(f'<li><a href="#{anchor(name)}">{text(name)}</a></li>' for name in sections)
    body = "".join(
        f'<section aria-labelledby="{anchor(name)}"><h2 id="{anchor(name)}">{text(name)}</h2>\n'
        f"{content}</section>\n"
        for name, content in sections.items()
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>\n{STYLE.read_text(encoding='utf-8')}</style>\n"
        '</head>\n<body>\n<a class="skip" href="#main">Skip to the result</a>\n'
        f"<header><h1>{text(title)}</h1></header>\n"
        f'<main id="main" tabindex="-1">\n{top}\n'
        f'<nav aria-label="Parts of this page"><ul>{links}</ul></nav>\n{body}</main>\n'
        f"<footer><p>Made by plot_losses.py of byol {text(__version__)}. This file holds all that "
        "it shows, and loads nothing.</p></footer>\n</body>\n</html>\n"
    )


def text(value: object) -> str:
    """Escape a text for HTML; control characters and marks of direction become visible.

    Of a very long one the beginning is shown.
    """
    shown = str(value)
    shown = shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}..."
    return escape(printable(shown))


def anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def paragraph(words: str) -> str:
    return f"<p>{text(words)}</p>\n"


def figure(shown: Shown) -> str:
    """Write a picture with its words, and the figures if it has a table."""
    data, width, height = embed(shown.path)
    rows = ""
    if shown.table:
        head, *others = shown.table
        rows = table(f"{shown.title}, in figures", head, others, numbers=range(1, len(head)))
        rows = f"<details><summary>The figures</summary>{rows}</details>"
    made_by = commands([shown.command] if shown.command else [])
    # alt texts are not shortened: they stand for the picture
    return (
        f"<figure><h3>{text(shown.title)}</h3>\n"
        f'<img src="{data}" width="{width}" height="{height}" '
        f'alt="{escape(printable(shown.alt))}">\n'
        f"<figcaption>{escape(printable(shown.caption))}</figcaption>{made_by}{rows}</figure>\n"
    )


def embed(path: Path) -> tuple[str, int, int]:
    """Put a picture into a data: URI, and give its width and height on the page in pixels.

    A picture of curves keeps a palette of 128 colours. One that is larger than `MOST_KB` even so
    is made of photos, and becomes a JPEG.
    """
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    if image.width > WIDEST:
        image = image.resize((WIDEST, round(image.height * WIDEST / image.width)))
    blob = io.BytesIO()
    colours = image.quantize(128, dither=Image.Dither.NONE)
    colours.save(blob, "PNG", optimize=True)
    kind = "png"
    if blob.tell() > 1000 * MOST_KB or _is_of_photos(image):
        kind, blob = "jpeg", io.BytesIO()
        image.save(blob, "JPEG", quality=82, optimize=True, progressive=True)
    encoded = base64.b64encode(blob.getvalue()).decode("ascii")
    return f"data:image/{kind};base64,{encoded}", *image.size


def _is_of_photos(image: Image.Image) -> bool:
    """Tell whether a picture has so many colours that a palette would show."""
    small = image.resize((200, max(1, 200 * image.height // image.width)), Image.Resampling.NEAREST)
    return len(np.unique(np.asarray(small).reshape(-1, 3), axis=0)) > 2_000


def table(caption: str, head: list[str], rows: list[list], numbers=(), kind: str = "") -> str:
    """Write a table; the first cell of a row is its heading. numbers: columns of figures.

    A table that is too wide scrolls in a region of its own, also by the keyboard.
    """

    def cell(tag: str, at: int, content: object, scope: str = "") -> str:
        right = ' class="number"' if at in numbers else ""
        return f"<{tag}{scope}{right}>{text(content)}</{tag}>"

    heads = "".join(cell("th", at, name, ' scope="col"') for at, name in enumerate(head))
    body = "".join(
        "<tr>"
        + "".join(
            cell("td", at, content) if at else cell("th", at, content, ' scope="row"')
            for at, content in enumerate(row)
        )
        + "</tr>\n"
        for row in rows
    )
    style = f' class="{kind}"' if kind else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(caption)}">'
        f"<table{style}><caption>{text(caption)}</caption>\n<thead><tr>{heads}</tr></thead>\n"
        f"<tbody>{body}</tbody></table></div>\n"
    )


def facts(pairs: list[tuple[str, str]]) -> str:
    """Write a list of what there is and its value."""
    rows = "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>\n" for name, value in pairs)
    return f"<dl>\n{rows}</dl>\n"


def commands(lines: list[str]) -> str:
    """Write commands as they were typed, whole. A line is broken between words if it can be."""
    spelt = [
        " ".join(f"<span>{escape(printable(word))}</span>" for word in line.split(" "))
        for line in lines
    ]
    return "".join(f"<pre>{line}</pre>\n" for line in spelt)
