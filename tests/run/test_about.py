"""What a run writes down of how it was made."""

import json
import shlex
import subprocess
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from byol.command_line import command
from byol.run.about import (
    About,
    current_command,
    describe_machine,
    describe_photos,
    read_about,
    spell_command,
    without_home,
)


@pytest.fixture
def photos():
    """Six photos of two classes, one of them for the test, one without a class."""
    return SimpleNamespace(
        source="some photos", fingerprint="ab-cd", names=list("abcdef"), classes=["cat", "dog"],
        labels=np.array([0, 0, 0, 1, 1, -1]), is_test=np.array([0, 0, 1, 0, 0, 0], bool),
        skipped=[("x", "empty"), ("y", "cut off"), ("z", "empty")], passed="2 videos (a.mp4, ...)",
    )  # fmt: skip


@pytest.fixture
def split():
    parts = {"labelled": [0, 3], "unlabelled": [1, 4, 5], "hidden": [1, 4], "holdout": []}
    parts |= {"test": [2], "learned": [1, 4, 5]}
    return SimpleNamespace(**{part: np.array(rows, int) for part, rows in parts.items()})


def test_photos_are_counted_by_class_and_by_part(photos, split):
    about = describe_photos(photos, split)
    assert (about["count"], about["without_class"]) == (6, 1)
    assert about["classes"] == [
        {"name": "cat", "photos": 3, "labelled": 1, "test": 1},
        {"name": "dog", "photos": 2, "labelled": 1, "test": 0},
    ]
    assert about["split"] == {
        "labelled": 2, "unlabelled": 3, "hidden": 2, "holdout": 0, "test": 1, "learned": 3
    }  # fmt: skip
    assert about["skipped"] == Counter(empty=2, **{"cut off": 1})
    assert about["skipped_count"] == len(about["skipped_first"]) == 3
    assert about["passed_over"] == "2 videos (a.mp4, ...)"


def test_photos_without_classes_are_counted(photos, split):
    photos.classes, photos.labels, photos.skipped = [], np.full(6, -1), []
    about = describe_photos(photos, split)
    assert (about["classes"], about["without_class"], about["skipped"]) == ([], 6, {})


def test_a_command_line_does_the_same_in_a_shell(monkeypatch, tmp_path, root):
    """Also with spaces, quotes and a folder of the user's own, whose name is not told."""
    monkeypatch.setenv("HOME", str(tmp_path / "alice"))
    home = tmp_path / "alice"
    given = ["--data", f"{home}/my photos", "--out", "it's; rm *", f"--run-dir={home}/runs"]
    given += ["--labels-file=a b.csv", str(home)]
    text = spell_command(str(root / "train_byol.py"), given)
    assert text.startswith("python train_byol.py --data ")
    assert "alice" not in text
    shell = ["sh", "-c", f"printf '%s\\n' {text}"]
    words = subprocess.run(shell, capture_output=True, text=True, check=True).stdout.splitlines()
    expected = [*given[:4], "--run-dir", f"{home}/runs", *given[5:]]
    assert words == ["python", "train_byol.py", *expected]
    assert spell_command(str(root / "experiments" / "lightly.py"), ["x"]) == (
        "python -m experiments.lightly x"
    )


def test_the_users_own_folder_is_told_as_a_tilde(monkeypatch):
    monkeypatch.setenv("HOME", "/home/al")
    assert without_home("/home/al/a with --labelled /home/al") == "~/a with --labelled ~"
    assert without_home("/home/alice/a /x/home/al/b") == "/home/alice/a /x/home/al/b"
    monkeypatch.setenv("HOME", "/")
    assert without_home("/home/al") == "/home/al"


def test_a_script_knows_its_command_while_it_runs():
    seen = []
    inner = command(lambda argv: seen.append(current_command()))

    def outer(argv):
        inner(["b"])
        seen.append(current_command())

    assert command(outer)(["a", "c d"]) == 0
    name = Path(__file__).with_suffix("").name
    assert [shlex.split(text)[-2:] for text in seen] == [[f"tests.run.{name}", "b"], ["a", "c d"]]
    assert current_command() == ""


def test_a_machine_has_neither_its_name_nor_a_user(monkeypatch):
    import getpass
    import platform

    monkeypatch.setattr(platform, "node", lambda: "my-own-machine")
    told = json.dumps(describe_machine())
    assert "my-own-machine" not in told
    assert describe_machine().keys() == {"system", "processor", "cores", "gpu"}
    assert f'"{getpass.getuser()}"' not in told


def test_sessions_add_up_if_the_same_run_goes_on(tmp_path, photos, split):
    path, others = tmp_path / "about.json", (photos, split, "cpu")
    About(path, "one", False, *others)
    About(path, "one", True, *others)
    assert len(read_about(path)["sessions"]) == 2
    About(path, "another", True, *others)
    assert len(read_about(path)["sessions"]) == 1
    About(path, "another", False, *others)  # begun anew
    (session,) = read_about(path)["sessions"]
    assert {"command", "begun", "ended", "seconds", "byol", "torch", "python"} <= session.keys()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"sessions": 3}', '{"sessions": [3]}'])
def test_a_damaged_record_is_as_none(tmp_path, photos, split, text):
    path = tmp_path / "about.json"
    path.write_text(text)
    assert read_about(path) == {}
    About(path, "one", True, photos, split, "cpu")
    assert len(read_about(path)["sessions"]) == 1
