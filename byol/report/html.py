"""The page of `plot_losses.py`: one file of HTML that holds everything, pictures included."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from byol import __version__
from byol.errors import printable
from byol.files import write_atomically
from byol.report.gallery import Shown
from byol.report.style import TRAINED, styles_of
from byol.report.table import mean_and_deviation

MOST_KB = 300  # of a picture: a larger one becomes a JPEG
WIDEST = 1600  # pixels of a picture on the page
MOST_CLASSES = 100  # that are listed
UNKNOWN = "not recorded"
# Nothing from elsewhere, and no script: only style and pictures that stand in the page itself.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
STYLE = """
:root { color-scheme: light dark; --ground: #fff; --ink: #1a1a1a; --soft: #555; --line: #ccc;
  --card: #f5f5f3; --link: #0055aa; }
@media (prefers-color-scheme: dark) { :root { --ground: #161616; --ink: #eee; --soft: #b5b5b5;
  --line: #484848; --card: #222; --link: #8ac4ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 62rem; background: var(--ground);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
a { color: var(--link); }
a:focus-visible, summary:focus-visible, [tabindex]:focus-visible { outline: 3px solid var(--link);
  outline-offset: 2px; }
.skip { position: absolute; left: -999rem; }
.skip:focus { position: static; }
h1 { font-size: 1.3rem; margin: 0 0 1rem; color: var(--soft); font-weight: 600; }
h2 { margin: 2.5rem 0 .75rem; border-bottom: 1px solid var(--line); padding-bottom: .25rem; }
h3 { margin: 1.5rem 0 .5rem; }
.verdict { font-size: 1.35rem; line-height: 1.4; margin: 0 0 1.5rem; font-weight: 600; }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; padding: 0; list-style: none; }
figure { margin: 0 0 2rem; }
figure img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 6px;
  border: 1px solid var(--line); }
figcaption { color: var(--soft); margin-top: .5rem; max-width: 46rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .5rem 0 1rem; }
caption { text-align: left; color: var(--soft); padding-bottom: .35rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem .75rem .3rem 0;
  border-bottom: 1px solid var(--line); }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
pre { background: var(--card); padding: .75rem; border-radius: 6px; white-space: pre-wrap;
  margin: .25rem 0 1rem; }
summary { cursor: pointer; padding: .35rem 0; }
footer { color: var(--soft); margin-top: 3rem; font-size: .9rem; }
@media print { body { max-width: none; } nav, .skip { display: none; }
  figure, table { break-inside: avoid; } h2, h3 { break-after: avoid; } }
"""


@dataclass
class Part:
    """A run, as the page tells of it. about: see byol/run/about.py; {} of an earlier version."""

    name: str
    what: str
    settings: dict
    about: dict = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def write_page(
    path: Path, sentence: str, groups: dict, shown: list[Shown], tables: list[Shown], parts: list
) -> Path:
    """Write the page, whole or not at all.

    sentence: the verdict. groups: {(init, freeze): runs}. shown: the pictures. tables: pictures of
    evaluate.py, which come first. parts: a `Part` for each run, that of pretraining first.
    """
    sections = {
        "Accuracy": accuracies(groups),
        "Pictures": "".join(map(figure, [*tables, *shown])),
        "Photos": photos_of(parts),
        "Runs": "".join(map(run_of, parts)),
    }
    sections = {title: text for title, text in sections.items() if text}
    links = "".join(f'<li><a href="#{anchor(title)}">{title}</a></li>' for title in sections)
    body = "".join(
        f'<section aria-labelledby="{anchor(title)}"><h2 id="{anchor(title)}">{title}</h2>'
        f"{text}</section>"
        for title, text in sections.items()
    )
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>BYOL: what the runs show</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        '<a class="skip" href="#main">Skip to the result</a>\n'
        "<header><h1>BYOL: what the runs show</h1></header>\n"
        f'<main id="main">\n<p class="verdict">{text_of(sentence)}</p>\n'
        f'<nav aria-label="Parts of this page"><ul>{links}</ul></nav>\n{body}\n</main>\n'
        f"<footer><p>Made by plot_losses.py of byol {text_of(__version__)}. This file holds "
        "everything; it loads nothing.</p></footer>\n</body>\n</html>\n"
    )
    write_atomically(path, page.encode("utf-8"))
    return path


def text_of(text: object) -> str:
    """Escape a text for HTML; control characters and marks of direction become visible."""
    return escape(printable(str(text)))


def anchor(title: str) -> str:
    return title.lower()


def accuracies(groups: dict) -> str:
    """Write a table of the accuracies: a row for each start, frozen and full."""
    if not groups:
        return ""
    summary = next(iter(groups.values()))[0]["summary"]
    rows = []
    for init, style in styles_of(init for init, _ in groups).items():
        cells = [style["label"]]
        for freeze in (True, False):
            values = [run["summary"]["test_accuracy"] for run in groups.get((init, freeze), [])]
            cells.append(mean_and_deviation(values, " seeds") if values else "no run")
        rows.append(cells)
    by = summary["tested_on"]
    tested = by if by == "cross-validation" else f"on {summary['test_images']:,} photos ({by})"
    caption = (
        f"Accuracy in %, {tested}, {summary['labels']:,} labels, {summary['image_size']} px, "
        f"{summary['representation']} features: mean ± deviation"
    )
    return table(caption, ["weights", TRAINED[True], TRAINED[False]], rows, numbers=(1, 2))


def figure(shown: Shown) -> str:
    """Write a picture with its words."""
    data, width, height = embed(shown.path)
    return (
        f"<figure><h3>{text_of(shown.title)}</h3>"
        f'<img src="{data}" width="{width}" height="{height}" alt="{text_of(shown.alt)}">'
        f"<figcaption>{text_of(shown.caption)}</figcaption></figure>\n"
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
    text = base64.b64encode(blob.getvalue()).decode("ascii")
    return f"data:image/{kind};base64,{text}", *image.size


def _is_of_photos(image: Image.Image) -> bool:
    """Tell whether a picture has so many colours that a palette would show."""
    small = image.resize((200, max(1, 200 * image.height // image.width)), Image.Resampling.NEAREST)
    return len(np.unique(np.asarray(small).reshape(-1, 3), axis=0)) > 2_000


def photos_of(parts: list[Part]) -> str:
    """Write what the photos are: counts, classes, split, what was skipped."""
    about = next((part.about["photos"] for part in parts if part.about.get("photos")), None)
    if not about:
        return f"<p>Photos: {UNKNOWN}.</p>" if parts else ""
    split = about["split"]
    rows = [
        ["source", about["source"]],
        ["photos", f"{about['count']:,}"],
        ["without a class", f"{about['without_class']:,}"],
        ["labelled", f"{split['labelled']:,}"],
        ["BYOL learned from", f"{split['learned']:,}"],
        ["held out", f"{split['holdout']:,}"],
        ["in a test folder", f"{split['test']:,}"],
        ["could not be used", f"{about['skipped_count']:,}"],
        *([f"  {reason}", f"{count:,}"] for reason, count in about["skipped"].items()),
        ["passed over", about["passed_over"] or "nothing"],
    ]
    text = table("Photos and how they are split", ["what", "how many"], rows)
    if about["skipped_first"]:
        names = "; ".join(f"{name} ({reason})" for name, reason in about["skipped_first"])
        text += f"<p>Could not be used: {text_of(names)}.</p>"
    if about["classes"]:
        classes = about["classes"]
        rows = [
            [c["name"], f"{c['photos']:,}", f"{c['labelled']:,}", f"{c['test']:,}"]
            for c in classes[:MOST_CLASSES]
        ]
        more = len(classes) - MOST_CLASSES
        caption = "Classes" + (f"; {more:,} more are not listed" if more > 0 else "")
        head = ["class", "photos", "labelled", "in a test folder"]
        text += table(caption, head, rows, numbers=(1, 2, 3))
    return text


def run_of(part: Part) -> str:
    """Write how a run was made: commands, times, machine, settings."""
    sessions = part.about.get("sessions", [])
    text = f"<h3>{text_of(part.name)}</h3><p>{text_of(part.what)}</p>"
    text += "".join(f"<p>{text_of(note)}</p>" for note in part.notes)
    if not sessions:
        text += f"<p>Command, machine and times: {UNKNOWN}.</p>"
    for session in sessions:
        machine = session["machine"]
        where = f"{machine['processor']}, {machine['cores']} cores, {machine['system']}"
        where += f", {machine['gpu']}" if machine["gpu"] else ""
        rows = [
            ["begun", session["begun"]],
            ["time", duration(session.get("seconds"))],
            ["device", session["device"]],
            ["machine", where],
            ["versions", f"byol {session['byol']}, torch {session['torch']}, "
             f"Python {session['python']}"],
        ]  # fmt: skip
        text += f"<pre>{text_of(session['command'] or UNKNOWN)}</pre>"
        text += table(f"How {part.name} was computed", ["what", "value"], rows)
    rows = [[key, json.dumps(value)] for key, value in part.settings.items()]
    settings = table(f"Settings of {part.name}", ["setting", "value"], rows)
    return f"{text}<details><summary>Settings of {text_of(part.name)}</summary>{settings}</details>"


def duration(seconds: float | None) -> str:
    """Write a time."""
    if seconds is None:
        return UNKNOWN
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.1f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def table(caption: str, head: list[str], rows: list[list], numbers: tuple = ()) -> str:
    """Write a table; the first cell of a row is its heading. numbers: columns of figures."""

    def cell(tag: str, at: int, text: object, scope: str = "") -> str:
        kind = ' class="number"' if at in numbers else ""
        return f"<{tag}{scope}{kind}>{text_of(text)}</{tag}>"

    heads = "".join(cell("th", at, text, ' scope="col"') for at, text in enumerate(head))
    body = "".join(
        "<tr>"
        + "".join(
            cell("td", at, text) if at else cell("th", at, text, ' scope="row"')
            for at, text in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text_of(caption)}"><table>'
        f"<caption>{text_of(caption)}</caption><thead><tr>{heads}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )
