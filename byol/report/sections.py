"""The page of `plot_losses.py`, from the verdict to the settings (plots/index.html)."""

from __future__ import annotations

import dataclasses
import datetime
import typing
from pathlib import Path

from byol.config import GROUPS, modern_settings
from byol.files import write_atomically
from byol.progress import duration
from byol.report.gallery import Shown
from byol.report.html import commands, document, facts, figure, paragraph, table, text
from byol.report.parts import Part
from byol.report.style import TRAINED, kinds_of, styles_of
from byol.report.table import mean_and_deviation
from byol.report.verdict import Verdict
from byol.run.about import without_home

UNKNOWN = "not recorded"
MOST_CLASSES = 100  # that are listed


def write_page(
    path: Path, verdict: Verdict, groups: dict, shown: list[Shown], parts: list[Part]
) -> Path:
    """Write the page, whole or not at all.

    groups: {(init, trained): runs}. shown: the pictures, in their order. parts: the runs, those of
    pretraining first.
    """
    sections = {
        "Accuracy": accuracies(groups),
        "Pictures": "".join(map(figure, shown)),
        "Photos": photos(parts),
        "Runs": "".join(map(made, parts)),
    }
    page = document(title(parts, groups), answer(verdict), sections)
    write_atomically(path, page.encode("utf-8"))
    return path


def title(parts: list[Part], groups: dict) -> str:
    """Name the page by the photos."""
    names = [runs[0]["summary"]["data"] for runs in groups.values()]
    names += [str(part.settings["data"]) for part in parts if part.settings.get("data")]
    return f"BYOL on {Path(names[0]).name or names[0]}" if names else "BYOL"


def answer(verdict: Verdict) -> str:
    """Write the verdict, the first that is read."""
    more = "".join(map(paragraph, verdict.more))
    return (
        f'<section class="verdict {verdict.kind}" aria-labelledby="verdict">'
        f'<h2 id="verdict">{text(verdict.headline)}</h2>\n'
        f'<p class="sentence">{text(verdict.sentence)}</p>\n{more}</section>'
    )


def accuracies(groups: dict) -> str:
    """Write a table of the accuracies: a row for each start, a column for what learned."""
    if not groups:
        return ""
    summary = next(iter(groups.values()))[0]["summary"]
    seeds = {len(runs) for runs in groups.values()}
    rows, kinds = [], kinds_of(groups)
    for init, style in styles_of(init for init, _ in groups).items():
        cells = [style["label"]]
        for trained in kinds:
            values = [run["summary"]["test_accuracy"] for run in groups.get((init, trained), [])]
            told = mean_and_deviation(values, " seeds") if values else "no run"
            cells.append(told.partition(" (")[0] if len(seeds) == 1 else told)
        rows.append(cells)
    of = f", mean ± deviation of {seeds.pop()} seeds" if seeds != {1} and len(seeds) == 1 else ""
    by = summary["tested_on"]
    tested = by if by == "cross-validation" else f"on {summary['test_images']:,} photos ({by})"
    caption = (
        f"Accuracy in %, {tested}, {summary['labels']:,} labels, {summary['image_size']} px, "
        f"{summary['representation']} features{of}"
    )
    head = ["weights", *(TRAINED[trained] for trained in kinds)]
    return table(caption, head, rows, numbers=range(1, len(head)), kind="accuracies")


# ---- photos


def photos(parts: list[Part]) -> str:
    """Write what the photos are: once, or for pretraining and classifiers if they differ."""
    told: dict[str, list[Part]] = {}
    for part in parts:
        if part.photos:
            told.setdefault(part.photos["fingerprint"], []).append(part)
    if not told:
        return paragraph(f"Photos: {UNKNOWN}.") if parts else ""
    written = ""
    for alike in told.values():
        if len(told) > 1:
            written += f"<h3>{text(alike[0].photos['source'])}</h3>\n"
        written += _counts(alike) + _classes(alike[-1].photos)
    return written


def _counts(alike: list[Part]) -> str:
    """Write the counts. alike: parts of the same photos; they may be split in different ways."""
    about, split = alike[-1].photos, alike[-1].photos["split"]
    pretrained = [part for part in alike if part.is_pretraining]
    learned = {part.name: part.photos["split"]["learned"] for part in pretrained}
    pairs = [
        ("source", about["source"]),
        ("photos", f"{about['count']:,}"),
        *(
            (f"BYOL learned from{'' if len(learned) == 1 else f', {name}'}", f"{count:,}")
            for name, count in learned.items()
        ),
        ("labelled", f"{split['labelled']:,}"),
        ("with a hidden label", f"{split['hidden']:,}"),
        ("held out", f"{split['holdout']:,}"),
        ("in a test folder", f"{split['test']:,}"),
        ("without a class", f"{about['without_class']:,}"),
        ("could not be used", _skipped(about)),
        ("passed over", about["passed_over"] or "nothing"),
    ]
    return facts(pairs)


def _skipped(about: dict) -> str:
    """Say how many files could not be used, why, and which ones."""
    if not about["skipped_count"]:
        return "none"
    whys = ", ".join(f"{count:,} {reason}" for reason, count in about["skipped"].items())
    names = ", ".join(name for name, _ in about["skipped_first"])
    more = " and more" if about["skipped_count"] > len(about["skipped_first"]) else ""
    return f"{about['skipped_count']:,} files ({whys}): {names}{more}"


def _classes(about: dict) -> str:
    """Write a table of the classes."""
    classes = about["classes"]
    if not classes:
        return ""
    rows = [
        [c["name"], f"{c['photos']:,}", f"{c['labelled']:,}", f"{c['test']:,}"]
        for c in classes[:MOST_CLASSES]
    ]
    more = len(classes) - MOST_CLASSES
    caption = f"{len(classes):,} classes"
    caption += f", of which {more:,} are not listed" if more > 0 else ""
    caption += f": {about['source']}"
    return table(caption, ["class", "photos", "labelled", "in a test folder"], rows, (1, 2, 3))


# ---- how each thing was made


def made(part: Part) -> str:
    """Write what came out of a run, and how it was made: commands, time, machine."""
    written = f"<h3>{text(part.name)}</h3>\n{paragraph(part.what)}"
    sessions = part.sessions
    if not sessions:
        return written + paragraph(f"Command, machine and times: {UNKNOWN}.") + settings(part)
    written += commands(list(dict.fromkeys(s["command"] or UNKNOWN for s in sessions)))
    first, last = min(s["begun"] for s in sessions), max(s["ended"] for s in sessions)
    took = duration(sum(session["seconds"] for session in sessions))
    took += f" in {len(sessions)} sessions" if len(sessions) > len(part.abouts) else ""
    pairs = [
        ("time", f"{took}, from {moment(first)} to {moment(last)}"),
        ("computed on", _each(session["device"] for session in sessions)),
        ("machine", _each(_machine(session["machine"]) for session in sessions)),
        ("versions", _each(_versions(session) for session in sessions)),
    ]
    return written + facts(pairs) + settings(part)


def _each(texts: typing.Iterable[str]) -> str:
    """List what is there, each once."""
    return "; ".join(dict.fromkeys(texts))


def _machine(machine: dict) -> str:
    cores = machine["cores"]
    names = [machine["processor"], f"{cores} core{'s' * (cores != 1)}", machine["gpu"]]
    return ", ".join(name for name in [*names, machine["system"]] if name)


def _versions(session: dict) -> str:
    return f"byol {session['byol']}, torch {session['torch']}, Python {session['python']}"


def moment(written: str) -> str:
    """Write a time as people do, to the minute. What is no time stays as it is."""
    try:
        return f"{datetime.datetime.fromisoformat(written):%Y-%m-%d %H:%M %Z}".strip()
    except ValueError:
        return written


# ---- settings


def settings(part: Part) -> str:
    """Write the settings of a run: those that differ from the defaults, then the others."""
    if not part.settings:
        return paragraph(f"Settings: {UNKNOWN}.")
    known, order = modern_settings(part.settings), [*GROUPS]
    fields = [f for f in dataclasses.fields(part.defaults) if f.name in known]
    other, default = [], []
    for field in sorted(fields, key=lambda field: order.index(field.metadata["group"])):
        flag = "--" + field.name.replace("_", "-")
        value, usual = known[field.name], getattr(part.defaults, field.name)
        if value == usual:
            default.append([flag, spell(value, field)])
        else:
            other.append([flag, spell(value, field), spell(usual, field)])
    written = ""
    if other:
        caption = f"{part.name}: settings that are not the defaults"
        written += table(caption, ["setting", "value", "default"], other)
    if default:
        caption = f"{part.name}: settings that are the defaults"
        written += table(caption, ["setting", "value"], default)
    what = f"Settings: {len(other)} of {len(fields)} are not the defaults"
    return f"<details><summary>{what}</summary>\n{written}</details>\n"


def spell(value: object, field: dataclasses.Field) -> str:
    """Write a setting as its flag takes it."""
    if value is None:
        return str(field.metadata["none"])
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " ".join(map(str, value))
    return without_home(str(value))
