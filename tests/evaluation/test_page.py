"""The page: one file of HTML that loads nothing, and that no name of a file or class breaks."""

import html.parser
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from byol.config import ClassifierConfig, PretrainConfig
from byol.report.gallery import Shown
from byol.report.html import LONGEST
from byol.report.parts import Part, left_by_evaluate, parts_of
from byol.report.sections import write_page
from byol.report.style import FROZEN, FULL
from byol.report.verdict import HEADLINES, Verdict, verdict
from byol.run.about import PARTS

VOID = {"meta", "img", "br", "link"}
HOSTILE = [
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a & b", "'quoted'",
    "right\u202eto left", "line\nbreak", "null\0", "Café",
]  # fmt: skip


class Page(html.parser.HTMLParser):
    """Reads a page as a browser does: its tags, with their attributes and texts."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag: str) -> list[dict]:
        return [attrs for name, attrs in self.tags if name == tag]


def run(init: str, trained: str, accuracy: float, seed: int = 0, **summary) -> dict:
    content = {"init": init, "trained": trained, "seed": seed, "test_accuracy": accuracy}
    content |= {"labels": 250, "tested_on": "holdout", "test_images": 5000, "image_size": 64}
    content |= {"representation": "combined", "classes": ["cat", "dog"], "run": {"lr": 0.1}}
    content |= {"data": "some/photos"}
    return {"name": f"{init}-{trained}-{seed}", "summary": content | summary}


def groups(**accuracies: list[float]) -> dict:
    return {(init, FROZEN): [run(init, FROZEN, value, seed) for seed, value in enumerate(values)]
            for init, values in accuracies.items()}  # fmt: skip


@pytest.fixture
def picture(tmp_path) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    return tmp_path / "noise.png"


def page_of(tmp_path, shown=(), parts=(), compared=None, told=None) -> Page:
    told = told or Verdict("good", "It pays.", ["By much."])
    path = write_page(tmp_path / "index.html", told, compared or {}, list(shown), list(parts))
    return Page(path.read_text(encoding="utf-8"))


def told_part(name: str, defaults=None, photos: str = "f", **session) -> Part:
    """A run whose every text is this one."""
    about = {
        "source": name, "fingerprint": photos, "count": 3, "without_class": 1,
        "skipped": {name: 1}, "skipped_count": 1, "skipped_first": [[name, name]],
        "passed_over": name, "classes": [{"name": name, "photos": 2, "labelled": 1, "test": 0}],
        "split": dict.fromkeys(PARTS, 1),
    }  # fmt: skip
    texts = dict.fromkeys(("command", "begun", "ended", "device", "byol", "torch", "python"), name)
    machine = {"processor": name, "cores": 2, "system": name, "gpu": name}
    sessions = [texts | {"machine": machine, "seconds": 90.0} | session]
    defaults, settings = defaults or ClassifierConfig(), {"data": name, "arch": name}
    return Part(name, name, settings, defaults, [{"photos": about, "sessions": sessions}])


# ---- the page


def test_the_page_is_whole_and_loads_nothing(tmp_path, picture):
    shown = Shown(picture, "Noise", "Look.", "Noise.", [["weights", "10 labels"], ["BYOL", "60.1"]])
    found = page_of(tmp_path, [shown], [told_part("x")], groups(byol=[0.8]))
    assert [tag for tag, _ in found.tags].count("h1") == 1
    levels = [int(tag[1]) for tag, _ in found.tags if re.fullmatch("h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert not found.all("script") + found.all("link") + found.all("iframe")
    (image,) = found.all("img")
    assert image["src"].startswith("data:image/jpeg;base64,")
    assert (image["alt"], image["width"], image["height"]) == ("Noise.", "400", "300")
    (policy,) = [meta["content"] for meta in found.all("meta") if "http-equiv" in meta]
    allowed = {part.strip() for part in policy.split(";")}
    assert allowed == {
        "default-src 'none'", "style-src 'unsafe-inline'", "img-src data:", "base-uri 'none'",
        "form-action 'none'",
    }  # fmt: skip
    assert found.all("html") == [{"lang": "en"}]
    assert found.all("meta")[2]["name"] == "viewport"
    ids = [attrs["id"] for _, attrs in found.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for link in found.all("a"):
        assert link["href"][0] == "#"
        assert link["href"][1:] in ids
    assert len(found.all("caption")) == len(found.all("table")) >= 4
    assert all(head["scope"] in ("col", "row") for head in found.all("th"))
    labels = [attrs["aria-label"] for _, attrs in found.tags if "aria-label" in attrs]
    assert len(labels) == len(set(labels))
    for _, attrs in found.tags:
        assert not any(name.startswith("on") for name in attrs)
    text = (tmp_path / "index.html").read_text()
    assert "://" not in text
    assert not re.search(r"url\(|@import", text)


def test_the_verdict_comes_first(tmp_path, picture):
    found = page_of(tmp_path, [Shown(picture, "Noise", "Look.", "Noise.")], (), groups(byol=[0.8]))
    words = " ".join(found.words)
    order = ["BYOL on photos", "Pretraining pays", "It pays.", "By much.", "80.0", "Look."]
    places = [words.index(part) for part in order]
    assert places == sorted(places)


@pytest.mark.parametrize("name", HOSTILE)
def test_names_of_hostile_data_are_words_and_nothing_else(tmp_path, picture, name):
    def page(of: str) -> Page:
        shown = Shown(picture, of, of, of, [["x", of], [of, of]])
        told = Verdict("good", of, [of], headline=of)
        compared = {(of, FROZEN): [run(of, FROZEN, 0.5, data=of)]}
        return page_of(tmp_path, [shown], [told_part(of)], compared, told)

    found = page(name)
    words = {"span"}  # of a command: as many as there are
    assert [tag for tag, _ in found.tags if tag not in words] == [
        tag for tag, _ in page("x").tags if tag not in words
    ]
    shown = name.replace("\u202e", r"\u202e").replace("\n", r"\n").replace("\0", r"\x00")
    assert found.all("img")[0]["alt"] == shown
    assert "".join(found.words).count(shown) >= 20
    for _, attrs in found.tags:
        assert not any(attr.startswith("on") for attr in attrs)


def test_a_long_name_is_cut_and_many_classes_are_counted(tmp_path):
    part = told_part("y" * 10_000, command="python z")
    row = part.abouts[0]["photos"]["classes"][0]
    part.abouts[0]["photos"]["classes"] = [row | {"name": f"class {n}"} for n in range(5000)]
    found = page_of(tmp_path, parts=[part])
    assert max(len(name) for name in re.findall("y+", " ".join(found.words))) == LONGEST
    assert (tmp_path / "index.html").stat().st_size < 200_000
    words = " ".join(found.words)
    assert "class 99 " in words
    assert "class 100 " not in words
    assert "5,000 classes, of which 4,900 are not listed" in words


def test_a_run_of_an_earlier_version_says_what_was_not_recorded(tmp_path):
    rows = [{"epoch": 2.0, "loss": 0.5, "spread": 0.9}]
    parts = parts_of(tmp_path, {"byol": rows}, groups(random=[0.5, 0.6]))
    words = " ".join(page_of(tmp_path, parts=parts).words)
    assert words.count("Command, machine and times: not recorded.") == 2
    assert "Photos: not recorded." in words
    assert words.count("Settings: not recorded.") == 1  # those of a classifier are in its summary
    assert "Epoch 2.0: loss 0.500, spread 0.90." in words
    assert "Classifier: random weights, frozen backbone" in words
    assert "55.0 ± 7.1 % (2 seeds, holdout): random-frozen-0, random-frozen-1." in words


@pytest.mark.parametrize("broken", ["x", 3, [], {}, {"sessions": 3}, None, "photos", "sessions"])
def test_a_record_that_is_not_whole_counts_as_none(tmp_path, broken):
    about = told_part("x").abouts[0]
    if broken in ("photos", "sessions"):
        broken = about | {broken: [{}]}
    compared = {("random", FROZEN): [run("random", FROZEN, 0.5, about=broken)]}
    assert parts_of(tmp_path, {}, compared)[0].abouts == []
    compared = {("random", FROZEN): [run("random", FROZEN, 0.5, about=about)]}
    assert parts_of(tmp_path, {}, compared)[0].abouts == [about]


def test_sessions_and_seeds_of_one_command_are_told_together(tmp_path):
    times = {"begun": "2026-01-02T10:00:00+00:00", "ended": "2026-01-02T10:05:09+00:00"}
    part = told_part("x", command="python a", seconds=100.0, **times)
    later = {"begun": "2026-01-03T10:00:00+00:00", "ended": "2026-01-03T11:00:00+00:00"}
    part.abouts *= 2
    third = told_part("x", command="python a --resume", seconds=200.0, **later).abouts[0]
    third["sessions"] = part.abouts[0]["sessions"] + third["sessions"]
    part.abouts = [part.abouts[0], third]
    words = "".join(page_of(tmp_path, parts=[part]).words)
    assert words.count("python a\n") == 1
    assert words.count("python a --resume\n") == 1
    assert "6.7 minutes in 3 sessions, from 2026-01-02 10:00 UTC to 2026-01-03 11:00 UTC" in words


def test_settings_that_are_not_the_defaults_stand_first(tmp_path):
    part = told_part("x", PretrainConfig())
    part.settings = {"epochs": 7, "labels": None, "overwrite": True, "seed": 0, "lr": None,
                     "taps": ["layer1.0"], "compile": True}  # fmt: skip
    words = " ".join(page_of(tmp_path, parts=[part]).words)
    first, others = words.split("settings that are the defaults", 1)
    for row in ("--epochs 7 240", "--labels all 250", "--overwrite yes no",
                "--inner-blocks layer1.0 layer3.0 layer2.0"):  # fmt: skip
        assert row in " ".join(first.split())
    assert "--seed 0" in " ".join(others.split())
    assert "compile" not in words


def test_photos_are_told_once_or_for_each_if_they_differ(tmp_path):
    pretraining = told_part("a", PretrainConfig())
    words = " ".join(page_of(tmp_path, parts=[pretraining, told_part("b")]).words)
    assert words.count("BYOL learned from") == words.count("held out") == 1
    words = " ".join(page_of(tmp_path, parts=[pretraining, told_part("b", photos="g")]).words)
    assert words.count("BYOL learned from") == 1
    assert words.count("held out") == 2


CURVE = {"fingerprint": "a-b", "title": "t", "sentence": "s", "caption": "c", "alt": "a",
         "table": "| x | 10 labels |\n|---|---|\n| a \\| b | 60.1 |\n"}  # fmt: skip


def draw(path) -> None:
    Image.new("RGB", (40, 30), "red").save(path)


@pytest.mark.parametrize("damage", ["missing", "empty", "cut off", "no picture"])
def test_a_damaged_picture_of_evaluate_is_named_and_left_out(tmp_path, damage):
    path = tmp_path / "label_curve.png"
    (tmp_path / "label_curve.json").write_text(json.dumps(CURVE))
    if damage != "missing":
        draw(path)
        whole = path.read_bytes()
        path.write_bytes({"empty": b"", "cut off": whole[:60]}.get(damage, b"<script>" * 9))
    sentence, shown, (left_out,) = left_by_evaluate(tmp_path, "a-b", [])
    assert (sentence, shown) == ("", [])
    assert left_out == f"{path} is missing or damaged; the same command makes it again"


def test_what_evaluate_left_of_other_photos_is_left_out(tmp_path):
    assert left_by_evaluate(tmp_path, "a-b", []) == ("", [], [])
    (tmp_path / "label_curve.json").write_text(json.dumps(CURVE))
    draw(tmp_path / "label_curve.png")
    sentence, (shown,), left_out = left_by_evaluate(tmp_path, "a-b", [])
    assert (sentence, shown.title, shown.caption, left_out) == ("s", "t", "s c", [])
    assert shown.table == [["x", "10 labels"], ["a | b", "60.1"]]
    sentence, shown, (left_out,) = left_by_evaluate(tmp_path, "a-c", [])
    assert (sentence, shown) == ("", [])
    assert left_out.endswith("label_curve.png is of other photos than the runs")
    (tmp_path / "label_curve.json").write_text("[]")
    assert left_by_evaluate(tmp_path, None, [])[2][0].endswith("label_curve.json is damaged")


def test_a_curve_that_is_not_finished_is_shown_and_is_no_verdict(tmp_path):
    half = {"unfinished": "half of it", "command": "python evaluate.py"}
    (tmp_path / "label_curve.json").write_text(json.dumps(CURVE | half))
    draw(tmp_path / "label_curve.png")
    sentence, (shown,), _ = left_by_evaluate(tmp_path, "a-b", [])
    assert (sentence, shown.caption, shown.command) == ("", "s c", "python evaluate.py")


def test_a_curve_of_another_encoder_is_left_out(tmp_path):
    weights = [{"config": {}}, {"config": {"seed": 1, "epochs": 9, "device": "cuda"}}]
    (tmp_path / "label_curve.json").write_text(json.dumps(CURVE | {"weights": weights}))
    draw(tmp_path / "label_curve.png")
    for runs, is_shown in (
        ([], True),
        ([{}], True),
        ([{"seed": 1, "epochs": 9, "device": "cpu"}], True),
        ([{"seed": 0, "epochs": 9}], False),
        ([{"seed": 0, "epochs": 9}, {"seed": 1, "epochs": 9}], True),
    ):
        sentence, shown, left_out = left_by_evaluate(tmp_path, "a-b", runs)
        assert (bool(sentence), len(shown)) == (is_shown, is_shown)
        assert [text.rpartition(" is ")[2] for text in left_out] == (
            [] if is_shown else ["of another encoder than the runs"]
        )


def test_the_table_of_evaluate_is_shown_with_its_figures(tmp_path):
    cells = [{"weights": w, "representation": "avgpool", "protocol": "linear", "labels": "250",
              "values": v} for w, v in (("random", [0.5]), ("multi", [0.8, 0.9]))]  # fmt: skip
    content = {"fingerprint": "a-b", "cells": cells, "tested_on": {"250": "9 images (holdout)"}}
    (tmp_path / "table.json").write_text(json.dumps(content))
    draw(tmp_path / "table.png")
    sentence, (shown,), _ = left_by_evaluate(tmp_path, "a-b", [])
    assert sentence == ""
    assert shown.table[1:] == [
        ["random", "avgpool", "linear", "250", "50.0 %"],
        ["multi", "avgpool", "linear", "250", "85.0 ± 7.1 (2) %"],
    ]
    assert "The highest is 85.0 ± 7.1 (2) %: multi" in shown.alt


# ---- the verdict


@pytest.mark.parametrize(
    ("compared", "kind", "sentence", "more"),
    [
        # deviations: sqrt(2) = 1.4 of each; error: sqrt((0.85 * 0.15 + 0.61 * 0.39) / 5000) = 0.9 %
        (
            {"byol": [0.84, 0.86], "random": [0.60, 0.62]},
            "good",
            "BYOL's weights beat random ones by 24.0 points: 85.0 against 61.0 %.",
            ["Frozen backbone, 250 labels, mean of 2 seeds, which deviate by 1.4 points at most; "
             "tested on 5,000 photos that were held out."],
        ),
        (
            {"byol": [0.7, 0.6], "random": [0.6, 0.62]},
            "unclear",
            "BYOL's weights beat random ones by 4.0 points: 65.0 against 61.0 %.",
            ["The seeds deviate by 7.1 points, so the gap may be luck."],
        ),
        (
            {"byol": [0.7], "random": [0.6]},
            "good",
            "BYOL's weights beat random ones by 10.0 points: 70.0 against 60.0 %.",
            ["One seed cannot show how much is luck: --seeds 3 does."],
        ),
        (  # 2 * sqrt((0.61 * 0.39 + 0.6 * 0.4) / 5000) = 1.95 %
            {"byol": [0.61], "random": [0.6]},
            "unclear",
            "BYOL's weights beat random ones by 1.0 points: 61.0 against 60.0 %.",
            ["With so few photos a gap below 2.0 points may be luck."],
        ),
        (
            {"byol": [0.5], "random": [0.6]},
            "bad",
            "BYOL's weights do not beat random ones: 50.0 against 60.0 %.",
            ["Frozen backbone, 250 labels, one seed each; tested on 5,000 photos that were held "
             "out."],
        ),
        (
            {"byol": [0.7], "random": [0.6], "imagenet": [0.9]},
            "good",
            "BYOL's weights beat random ones by 10.0 points: 70.0 against 60.0 %.",
            ["ImageNet weights reach 90.0 %, more than BYOL's."],
        ),
        (
            {"byol": [0.6]},
            "none",
            "train_classifier.py --init random --freeze makes the classifier that is missing.",
            [],
        ),
        (
            {"random": [0.6]},
            "none",
            "train_classifier.py --init byol.pt --freeze makes the classifier that is missing.",
            [],
        ),
        ({}, "none", "train_classifier.py --init byol.pt --freeze makes the classifier that is "
         "missing.", []),
    ],
)  # fmt: skip
def test_the_verdict_is_honest(compared, kind, sentence, more):
    said = verdict(groups(**compared))
    assert (said.kind, said.sentence, said.headline) == (kind, sentence, HEADLINES[kind])
    assert [part for part in more if part not in said.more] == []
    may_be_luck = [part for part in said.more if "may be luck" in part]
    assert len(may_be_luck) == (kind == "unclear")


def test_the_verdict_says_what_was_no_test():
    """With 250 photos a gap of 4 points is less than 2 * sqrt(2 * 0.6 * 0.4 / 250) = 8.8."""
    both = {(init, FROZEN): [run(init, FROZEN, a, tested_on="cross-validation", test_images=250)]
            for init, a in (("byol", 0.64), ("random", 0.6))}  # fmt: skip
    said = verdict(both)
    assert said.kind == "unclear"
    assert said.more[0].endswith("; judged by cross-validation on the 250 labelled photos.")
    crossed = {
        ("byol", FROZEN): [run("byol", FROZEN, 1)],
        ("random", FULL): [run("random", FULL, 1)],
    }
    assert "the other way round" in verdict(crossed).sentence


def test_the_full_model_comes_second_and_stands_alone_if_it_must():
    frozen = groups(byol=[0.7], random=[0.6])
    full = {(init, FULL): [run(init, FULL, value)] for init, value in (("byol", 0.9),
            ("random", 0.8))}  # fmt: skip
    said = verdict(full | frozen)
    assert "70.0 against 60.0" in said.sentence
    assert "90.0 against 80.0 %. Full model" in said.more[-1]
    assert "90.0 against 80.0" in verdict(full).sentence


def test_the_sentence_of_a_curve_comes_before_the_accuracies():
    said = verdict(groups(byol=[0.7], random=[0.6]), "With 10 labels ...")
    assert said.sentence == "With 10 labels ..."
    assert said.headline == "What pretraining is worth in labels"
    assert said.more[0].startswith("BYOL's weights beat random ones by 10.0 points")
    assert verdict({}, "With 10 labels ...").more == []
