"""What the page tells beside the pictures: of each run, and of what evaluate.py left."""

from __future__ import annotations

import json
from pathlib import Path

from byol.errors import printable
from byol.files import same_photos
from byol.report.gallery import Shown
from byol.report.html import Part
from byol.report.style import TRAINED, styles_of
from byol.report.table import Cell
from byol.run.about import read_about


def parts_of(runs: Path, pretraining: list[str], classifiers: list[dict]) -> list[Part]:
    """List the runs: those of pretraining by name, then the classifiers of `read_runs`."""
    parts = []
    for name in pretraining:
        about = read_about(runs / name / "about.json")
        parts.append(Part(name, "Pretraining with BYOL.", _settings(runs / name), about))
    for run in classifiers:
        summary = run["summary"]
        start, trained = styles_of([summary["init"]])[summary["init"]], TRAINED[summary["freeze"]]
        accuracy = f"{100 * summary['test_accuracy']:.2f} % ({summary['tested_on']})"
        what = f"Classifier from {start['label']}, {trained}: {accuracy}."
        about = summary.get("about")
        about = about if isinstance(about, dict) and "sessions" in about else {}
        parts.append(Part(run["name"], what, summary.get("run") or {}, about))
    return parts


def _settings(folder: Path) -> dict:
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return content if isinstance(content, dict) else {}
    except (OSError, ValueError, RecursionError):
        return {}


def left_by_evaluate(folder: Path, photos: str | None) -> tuple[str, list[Shown], list[str]]:
    """Read what evaluate.py left: the sentence of its label curve, its pictures, what is left out.

    photos: the fingerprint of the photos of the runs. What is of other photos is left out.
    """
    sentence, shown, left_out = "", [], []
    for name, words in (("label_curve", _of_curve), ("table", _of_table)):
        try:
            content = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
            title, caption, alt = words(content)
            fingerprint = content["fingerprint"]
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            left_out.append(f"{folder / name}.json is damaged")
            continue
        if photos and not same_photos(fingerprint, photos):
            left_out.append(f"{folder / name}.png is of other photos than the runs")
            continue
        if (folder / f"{name}.png").is_file():
            shown.append(Shown(folder / f"{name}.png", title, caption, alt))
            sentence = str(content.get("sentence", "")) or sentence
    return sentence, shown, left_out


def _of_curve(content: dict) -> tuple[str, str, str]:
    return content["title"], f"{content['sentence']} {content['caption']}", content["alt"]


def _of_table(content: dict) -> tuple[str, str, str]:
    cells = [Cell(**cell) for cell in content["cells"]]
    told = [f"{c.weights}, {c.representation}, {c.protocol}, {c.labels} labels: {c} %"
            for c in cells]  # fmt: skip
    caption = (
        "The table of evaluate.py: each encoder, by the average pool alone and combined with inner "
        "blocks, judged by linear evaluation, by neighbours, and fine-tuned. "
        f"Tested on {printable('; '.join(content['tested_on'].values()))}."
    )
    return "Encoders compared", caption, "; ".join(told) + "."
