"""What the page tells beside the pictures: of each run, and of what evaluate.py left."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from byol.config import (
    MAY_DIFFER_ON_RESUME,
    ClassifierConfig,
    PretrainConfig,
    modern_settings,
)
from byol.errors import UserError, printable
from byol.files import same_photos
from byol.report.gallery import Shown
from byol.report.pretraining import training_of
from byol.report.style import TRAINED, styles_of
from byol.report.table import Cell, mean_and_deviation
from byol.run.about import read_about, whole_about
from byol.run.left import read_json


@dataclass
class Part:
    """A run of pretraining, or the classifiers that differ in their seeds alone.

    what: what came out. defaults: of the settings. abouts: see byol/run/about.py; one for each run
    that wrote it.
    """

    name: str
    what: str
    settings: dict
    defaults: PretrainConfig | ClassifierConfig
    abouts: list[dict] = field(default_factory=list)

    @property
    def is_pretraining(self) -> bool:
        """Whether it is a run of train_byol.py."""
        return isinstance(self.defaults, PretrainConfig)

    @property
    def photos(self) -> dict | None:
        """The photos, as the last run has told of them."""
        return self.abouts[-1]["photos"] if self.abouts else None

    @property
    def sessions(self) -> list[dict]:
        """All sessions. A command that trained several seeds has one for each."""
        return [session for about in self.abouts for session in about["sessions"]]


def parts_of(runs: Path, pretraining: dict[str, list[dict]], groups: dict) -> list[Part]:
    """List the runs of pretraining, then the classifiers. Both are as `read_runs` gives them."""
    parts = []
    for name, rows in pretraining.items():
        last = training_of(rows)[-1]
        what = f"Epoch {last['epoch']:.1f}: loss {last['loss']:.3f}, spread {last['spread']:.2f}."
        about = read_about(runs / name / "about.json")
        settings = _settings(runs / name)
        abouts = [about] if about else []
        parts.append(Part(f"Pretraining: {name}", what, settings, PretrainConfig(), abouts))
    for (init, trained), of_group in sorted(groups.items(), key=_place):
        values = [run["summary"]["test_accuracy"] for run in of_group]
        mean = mean_and_deviation(values).partition(" (")[0]
        seeds = f"{len(values)} seeds, " if len(values) > 1 else ""
        what = f"{mean} % ({seeds}{of_group[0]['summary']['tested_on']}): "
        what += ", ".join(run["name"] for run in of_group) + "."
        abouts = [whole_about(run["summary"].get("about")) for run in of_group]
        name = f"Classifier: {styles_of([init])[init]['label']}, {TRAINED[trained]}"
        settings = _settings(runs / of_group[0]["name"]) or of_group[0]["summary"].get("run") or {}
        parts.append(Part(name, what, settings, ClassifierConfig(), [a for a in abouts if a]))
    return parts


def _place(group: tuple) -> int:
    """Give the place of a group, ((init, trained), runs), by what learned."""
    return list(TRAINED).index(group[0][1])


def _settings(folder: Path) -> dict:
    try:
        return read_json(folder / "config.json")
    except UserError:  # the page says that they are not recorded
        return {}


def left_by_evaluate(
    folder: Path, photos: str | None, pretrained: Iterable[dict] = ()
) -> tuple[str, list[Shown], list[str]]:
    """Read what evaluate.py left: the sentence of its label curve, its pictures, what is left out.

    photos: the fingerprint of the photos of the runs; pretrained: the settings of each pretraining.
    What is of other photos or of another encoder is left out. Of a curve that is not finished there
    is no sentence.
    """
    sentence, shown, left_out = "", [], []
    for name, words in (("label_curve", _of_curve), ("table", _of_table)):
        try:
            content = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
            told = Shown(folder / f"{name}.png", *words(content))
            told.command = content.get("command") or ""
            fingerprint, unfinished = content["fingerprint"], content.get("unfinished")
            said = str(content.get("sentence", ""))
            judged = content.get("weights") or content.get("checkpoints") or []
            known = _is_of_one(pretrained, [weights["config"] for weights in judged])
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            left_out.append(f"{folder / name}.json is damaged")
            continue
        if photos and not same_photos(str(fingerprint), photos):
            left_out.append(f"{folder / name}.png is of other photos than the runs")
        elif not known:
            left_out.append(f"{folder / name}.png is of another encoder than the runs")
        elif not _is_picture(told.path):
            left_out.append(f"{told.path} is missing or damaged; the same command makes it again")
        else:
            shown.append(told)
            sentence = sentence if unfinished else said or sentence
    return sentence, shown, left_out


def _is_picture(path: Path) -> bool:
    """Tell whether a file is a picture that can be read to its end."""
    try:
        with Image.open(path) as picture:
            picture.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
    return True


def _is_of_one(pretrained: Iterable[dict], judged: Iterable[dict]) -> bool:
    """Tell whether an encoder that was judged may be of one of these pretrainings.

    Their settings decide, but for those that a run may go on with. If nothing is known, it may.
    """
    pretrained = [modern_settings(settings) for settings in pretrained if settings]
    judged = [modern_settings(settings) for settings in judged if settings]

    def alike(one: dict, other: dict) -> bool:
        keys = (one.keys() & other.keys()) - MAY_DIFFER_ON_RESUME
        return all(one[key] == other[key] for key in keys)

    if not pretrained or not judged:
        return True
    return any(alike(one, other) for one in pretrained for other in judged)


def _of_curve(content: dict) -> tuple[str, str, str, list[list[str]]]:
    rows = [
        [cell.strip().replace(r"\|", "|") for cell in line.strip("| ").split(" | ")]
        for line in content.get("table", "").splitlines()
        if line.startswith("| ")
    ]
    caption = f"{content['sentence']} {content['caption']}"
    return content["title"], caption, content["alt"], rows


def _of_table(content: dict) -> tuple[str, str, str, list[list[str]]]:
    cells = [Cell(**cell) for cell in content["cells"]]
    rows = [[cell.weights, cell.representation, cell.protocol, cell.labels, f"{cell} %"]
            for cell in cells]  # fmt: skip
    best = max(cells, key=lambda cell: sum(cell.values) / len(cell.values))
    caption = (
        "Each encoder, by the average pool alone and combined with inner blocks, judged by linear "
        "evaluation, by neighbours, and fine-tuned. "
        f"Tested on {printable('; '.join(content['tested_on'].values()))}."
    )
    alt = (
        f"Bars of the accuracy of each encoder. The highest is {best} %: {best.weights}, "
        f"{best.representation}, {best.protocol}, {best.labels} labels. The figures stand below."
    )
    head = ["weights", "representation", "judged by", "labels", "accuracy"]
    return "Encoders compared", caption, alt, [head, *rows]
