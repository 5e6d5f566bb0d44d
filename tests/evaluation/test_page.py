"""The page: one file of HTML that loads nothing, and that no name of a file or class breaks."""

import html.parser
import itertools
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from byol.report.gallery import Shown
from byol.report.html import Part, write_page
from byol.report.parts import left_by_evaluate, parts_of
from byol.report.verdict import verdict
from byol.run import about

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


def run(init: str, freeze: bool, accuracy: float, seed: int = 0, **summary) -> dict:
    content = {"init": init, "freeze": freeze, "seed": seed, "test_accuracy": accuracy}
    content |= {"labels": 250, "tested_on": "holdout", "test_images": 5000, "image_size": 64}
    content |= {"representation": "combined", "classes": ["cat", "dog"], "run": {"lr": 0.1}}
    return {"name": f"{init}-{freeze}-{seed}", "summary": content | summary}


def groups(**accuracies: list[float]) -> dict:
    return {(init, True): [run(init, True, value, seed) for seed, value in enumerate(values)]
            for init, values in accuracies.items()}  # fmt: skip


@pytest.fixture
def picture(tmp_path) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    return tmp_path / "noise.png"


def page_of(tmp_path, shown=(), parts=(), compared=None, sentence="It pays.") -> Page:
    path = write_page(
        tmp_path / "index.html", sentence, compared or {}, list(shown), [], list(parts)
    )
    return Page(path.read_text(encoding="utf-8"))


# ---- the page


def test_the_page_is_whole_and_loads_nothing(tmp_path, picture):
    part = Part("byol", "Pretraining.", {"lr": 0.1})
    found = page_of(
        tmp_path, [Shown(picture, "Noise", "Look.", "Noise.")], [part], groups(byol=[0.8])
    )
    assert [tag for tag, _ in found.tags].count("h1") == 1
    levels = [int(tag[1]) for tag, _ in found.tags if re.fullmatch("h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert not found.all("script") + found.all("link") + found.all("iframe")
    (image,) = found.all("img")
    assert image["src"].startswith("data:image/jpeg;base64,")
    assert (image["alt"], image["width"], image["height"]) == ("Noise.", "400", "300")
    policy = [meta["content"] for meta in found.all("meta") if "http-equiv" in meta]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    assert found.all("html") == [{"lang": "en"}]
    targets = {attrs["id"] for _, attrs in found.tags if "id" in attrs}
    for link in found.all("a"):
        assert link["href"][0] == "#"
        assert link["href"][1:] in targets
    assert found.all("caption")
    assert all(head["scope"] in ("col", "row") for head in found.all("th"))
    for _, attrs in found.tags:
        assert not any(name.startswith("on") for name in attrs)
    assert "http" not in " ".join(found.words)


@pytest.mark.parametrize("name", HOSTILE)
def test_names_of_hostile_data_are_words_and_nothing_else(tmp_path, picture, name):
    plain = page_of(tmp_path, [Shown(picture, "x", "x", "x")], [told_part("x")])
    found = page_of(tmp_path, [Shown(picture, name, name, name)], [told_part(name)])
    assert [tag for tag, _ in found.tags] == [tag for tag, _ in plain.tags]
    shown = name.replace("\u202e", r"\u202e").replace("\n", r"\n").replace("\0", r"\x00")
    assert found.all("img")[0]["alt"] == shown
    assert " ".join(found.words).count(shown) >= 5


def told_part(name: str) -> Part:
    """A run whose every text is this one."""
    photos = {
        "source": name, "count": 3, "without_class": 1, "skipped": {name: 1}, "skipped_count": 1,
        "skipped_first": [[name, name]], "passed_over": name,
        "classes": [{"name": name, "photos": 2, "labelled": 1, "test": 0}],
        "split": dict.fromkeys(("labelled", "learned", "holdout", "test"), 1),
    }  # fmt: skip
    machine = {"processor": name, "cores": 2, "system": name, "gpu": name}
    session = dict.fromkeys(("command", "begun", "device", "byol", "torch", "python"), name)
    sessions = [session | {"machine": machine, "seconds": 90}]
    return Part(name, name, {name: name}, {"photos": photos, "sessions": sessions}, [name])


def test_a_run_of_an_earlier_version_says_what_was_not_recorded(tmp_path):
    found = page_of(tmp_path, parts=parts_of(tmp_path, ["byol"], [run("random", True, 0.5)]))
    words = " ".join(found.words)
    assert words.count("Command, machine and times: not recorded.") == 2
    assert "Photos: not recorded." in words
    assert "Classifier from random weights, frozen backbone: 50.00 % (holdout)." in words


def test_what_evaluate_left_of_other_photos_is_left_out(tmp_path):
    assert left_by_evaluate(tmp_path, "a-b") == ("", [], [])
    content = '{"fingerprint": "%s", "title": "t", "sentence": "s", "caption": "c", "alt": "a"}'
    (tmp_path / "label_curve.json").write_text(content % "a-b")
    (tmp_path / "label_curve.png").touch()
    sentence, (shown,), left_out = left_by_evaluate(tmp_path, "a-b")
    assert (sentence, shown.title, shown.caption, left_out) == ("s", "t", "s c", [])
    sentence, shown, (left_out,) = left_by_evaluate(tmp_path, "a-c")
    assert (sentence, shown) == ("", [])
    assert left_out.endswith("label_curve.png is of other photos than the runs")
    (tmp_path / "label_curve.json").write_text("[]")
    assert left_by_evaluate(tmp_path, None)[2][0].endswith("label_curve.json is damaged")


# ---- the verdict


@pytest.mark.parametrize(
    ("compared", "begin", "end"),
    [
        (
            {"byol": [0.84, 0.86], "random": [0.60, 0.62]},
            "BYOL's weights beat random ones by 24.0 points: 85.0 against 61.0 % with a frozen "
            "backbone, 250 labels; tested on 5,000 photos, holdout",
            "; mean of 2 seeds, deviation 1.4.",
        ),
        ({"byol": [0.7, 0.6], "random": [0.6, 0.62]}, "BYOL's weights beat", "that may be luck."),
        ({"byol": [0.7], "random": [0.6]}, "BYOL's weights beat", "to see how much is luck."),
        ({"byol": [0.6], "random": [0.6]}, "BYOL's weights do not beat random ones: 60.0", "."),
        ({"byol": [0.6]}, "Nothing can be compared yet: train_classifier.py --init random", "."),
        ({"random": [0.6]}, "Nothing can be compared yet: train_classifier.py --init byol.pt", "."),
        ({}, "Nothing can be compared yet", "."),
    ],
)
def test_the_verdict_is_honest(compared, begin, end):
    said = verdict(groups(**compared))
    assert said.startswith(begin)
    assert said.endswith(end)


def test_the_verdict_says_what_was_no_test():
    both = {(init, True): [run(init, True, 0.6, tested_on="cross-validation")]
            for init in ("byol", "random")}  # fmt: skip
    assert "250 labels; cross-validation." in verdict(both)
    crossed = {("byol", True): [run("byol", True, 1)], ("random", False): [run("random", False, 1)]}
    assert "the other way round" in verdict(crossed)


# ---- what made a run


def test_a_command_is_spelt_as_a_shell_reads_it_and_names_no_user(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    words = ["--data", "/home/someone/my photos", "--init=/home/someone/b.pt", "$x"]
    spelt = about.spell_command(str(about.ROOT / "train_byol.py"), words)
    assert spelt == "python train_byol.py --data ~/'my photos' --init ~/b.pt '$x'"
    module = str(about.ROOT / "benchmarks" / "scale.py")
    assert about.spell_command(module, []) == "python -m benchmarks.scale"


def test_each_process_of_a_run_has_a_session(tmp_path):
    parts = ("labelled", "unlabelled", "hidden", "holdout", "test", "learned")
    split = SimpleNamespace(**{part: np.arange(2) for part in parts})
    photos = SimpleNamespace(
        labels=np.array([0, 1, -1]), classes=["a", "b"], is_test=np.array([False, True, False]),
        skipped=[("x.jpg", "empty file")], names=["1", "2", "3"], source="photos", passed="",
        fingerprint="f",
    )  # fmt: skip
    path = tmp_path / "about.json"

    def session(name: str, going_on: bool) -> dict:
        with about.running("train_byol.py", ["--epochs", "1"]):
            about.About(path, name, going_on, photos, split, "cpu").write()
        return about.read_about(path)

    assert len(session("one", False)["sessions"]) == 1
    content = session("one", True)
    assert [each["command"] for each in content["sessions"]] == [
        "python train_byol.py --epochs 1"
    ] * 2
    assert all(each["seconds"] >= 0 and each["ended"] for each in content["sessions"])
    assert content["photos"]["classes"] == [
        {"name": "a", "photos": 1, "labelled": 1, "test": 0},
        {"name": "b", "photos": 1, "labelled": 1, "test": 1},
    ]
    assert content["photos"]["skipped"] == {"empty file": 1}
    assert len(session("another", True)["sessions"]) == 1
    path.write_text("{")
    assert about.read_about(path) == {}
    assert about.current_command() == ""
