"""Labels as people have them, from the flag to the file, on narrow encoders."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from photo_files import cartoon_folder
from PIL import Image
from refusals import fails

import train_byol
from byol.evaluation.labelled import class_weights
from byol.run import checkpoint
from byol.run.checkpoint import save_state
from data import make_split, open_photos

TINY = ["--image-size", "32", "--store-size", "32", "--view-size", "32", "--hidden-dim", "16",
        "--health-every", "0",
        "--projection-dim", "8", "--losses", "classic", "--recipe", "cartoons", "--batch-size", "8",
        "--epochs", "1", "--amp", "off", "--device", "cpu"]  # fmt: skip
FROZEN = ["--init", "byol.pt", "--freeze"]


@pytest.fixture(autouse=True)
def _narrow(narrow_encoder):
    pass


@pytest.fixture(scope="module")
def drawings(tmp_path_factory) -> Path:
    """inbox/ with 20 drawings, flat; sorted/ with ten of each of two classes."""
    folder = tmp_path_factory.mktemp("drawings")
    cartoon_folder(folder / "all", train=48, test=0)
    (folder / "inbox").mkdir()
    for kind in sorted((folder / "all" / "train").iterdir()):
        (folder / "sorted" / kind.name).mkdir(parents=True)
        for number, path in enumerate(sorted(kind.glob("*.png"))):
            if number < 10:
                shutil.copy(path, folder / "sorted" / kind.name / path.name)
            elif number < 20:
                shutil.copy(path, folder / "inbox" / f"{kind.name}.{path.name}")
    return folder


@pytest.fixture
def here(drawings, in_tmp) -> Path:
    """A copy of `drawings` in the folder to work in."""
    shutil.copytree(drawings, in_tmp, dirs_exist_ok=True)
    return in_tmp


def pretrain(*flags) -> int:
    return train_byol.main([*TINY, *flags])


def settings_of(path="byol.pt") -> dict:
    return checkpoint.load(path, checkpoint.ENCODER)["config"]


def summary_of(folder="runs/classifier-byol-frozen") -> dict:
    return json.loads((Path(folder) / "summary.json").read_text())


def parts_of(folder="runs/byol") -> dict[str, list[str]]:
    return json.loads((Path(folder) / "split.json").read_text())


@pytest.mark.parametrize("place", ["mixed", "mixed/inbox"])
def test_some_sorted_photos_and_many_others_in_one_folder(here, classify, capsys, place):
    shutil.copytree("sorted", "mixed")
    shutil.copytree("inbox", place, dirs_exist_ok=True)
    assert pretrain("--data", "mixed", "--holdout", "4") == 0
    assert "36 images to learn from, 16 labelled among them, 4 held out" in capsys.readouterr().err
    assert settings_of()["labels"] is None
    assert classify(*FROZEN) == 0
    assert "16 labelled images of 2 classes; tested on 4 (holdout)" in capsys.readouterr().err
    assert summary_of()["labels"] == 16
    run = parts_of("runs/classifier-byol-frozen")
    assert run["holdout"] == parts_of()["holdout"]
    assert {name.count("/") for name in run["labelled"]} == {1}


def test_a_count_of_labels_leaves_the_labelled_ones_out_as_ever(here, capsys):
    assert pretrain("--data", "sorted", "--labels", "4") == 0
    assert "16 unlabelled images to learn from, 4 labelled" in capsys.readouterr().err


def test_a_classifier_of_an_encoder_without_labels_uses_all(here, classify, capsys):
    assert pretrain("--data", "inbox", "--labels", "0", "--label-pattern", "^[a-z]+") == 0
    assert classify(*FROZEN, "--holdout", "4", "--labels", "all") == 2  # it has seen them
    assert classify("--data", "sorted", *FROZEN, "--holdout", "4") == 0
    assert "16 labelled images" in capsys.readouterr().err


def test_sorted_photos_beside_an_inbox(here, classify, capsys):
    twice = next(Path("sorted").rglob("*.png"))
    shutil.copy(twice, "inbox/again.png")
    both = ["--data", "inbox", "--labelled", "sorted"]
    assert pretrain(*both, "--holdout", "4") == 0
    said = capsys.readouterr().err
    assert "36 images to learn from, 16 labelled among them, 4 held out" in said
    assert "1 photo that is in --labelled as well (data/again.png)" in said
    assert {name.split("/")[0] for name in parts_of()["unlabelled"]} == {"data"}
    assert {name.split("/")[0] for name in parts_of()["labelled"]} == {"labelled"}
    assert classify(*FROZEN) == 0
    assert summary_of()["labels"] == 16
    Path("sorted").rename("moved")
    capsys.readouterr()
    moved = ["--data", "inbox", "--labelled", "moved"]
    assert classify(*FROZEN, *moved, "--resume") == 0
    assert "holds this run, finished" in capsys.readouterr().err
    assert pretrain(*moved, "--holdout", "4", "--epochs", "2", "--resume") == 0
    assert "going on at step 4" in capsys.readouterr().err


def write_table(labels: dict[str, str]) -> None:
    lines = [f"{name},{label}\n" for name, label in labels.items()]
    Path("labels.csv").write_text("file,label\n" + "".join(lines))


def labels_of_inbox() -> dict[str, str]:
    names = sorted(path.name for path in Path("inbox").iterdir())
    return {name: name.partition(".")[0] for name in names}


def test_a_table_is_remembered_and_what_it_says_counts(here, classify, capsys):
    labels = labels_of_inbox()
    write_table(labels)
    flags = ["--data", "inbox", "--labels-file", "labels.csv", "--holdout", "4"]
    assert pretrain(*flags) == 0
    assert classify(*FROZEN) == 0
    assert "tested on 4 (holdout)" in capsys.readouterr().err
    assert settings_of()["labels_file"] == "labels.csv"
    Path("labels.csv").rename("moved.csv")
    moved = ["--labels-file", "moved.csv"]
    assert classify(*FROZEN, *moved, "--resume") == 0
    assert "holds this run, finished" in capsys.readouterr().err

    some = next(name for name in parts_of()["holdout"])
    write_table(labels | {some: ""})
    fails(capsys, classify(*FROZEN, "--overwrite"), "--holdout: the labels are not those of when")
    again = pretrain(*flags, "--epochs", "2", "--resume")
    fails(capsys, again, "runs/byol was started with other labels", "put the old labels back")


def test_more_labels_in_a_table_do_not_stop_a_run_that_learns_from_all(here, capsys):
    labels = labels_of_inbox()
    write_table(dict(list(labels.items())[5:15]))
    flags = ["--data", "inbox", "--labels-file", "labels.csv"]
    assert pretrain(*flags) == 0
    write_table(labels)
    capsys.readouterr()
    assert pretrain(*flags, "--epochs", "2", "--resume") == 0
    assert "20 images to learn from, 20 labelled among them" in capsys.readouterr().err


def test_a_run_that_left_labelled_photos_out_of_all_does_not_go_on(here, capsys):
    """As earlier versions did."""
    assert pretrain("--data", "sorted") == 0
    state = torch.load("runs/byol/last.pt", weights_only=True)
    old = {key: value for key, value in state.items() if key not in ("kind", "learned")}
    save_state(Path("runs/byol"), old)
    again = pretrain("--data", "sorted", "--epochs", "2", "--resume")
    fails(capsys, again, "of an earlier version", "did not learn from the labelled images")


def test_a_pattern_is_remembered_unless_labels_come_from_elsewhere(here, classify, capsys):
    flags = ["--data", "inbox", "--label-pattern", r"^(\w+)\.", "--holdout", "4"]
    assert pretrain(*flags) == 0
    assert classify(*FROZEN) == 0
    assert summary_of()["run"]["label_pattern"] == r"^(\w+)\."
    write_table(labels_of_inbox())
    table = ["--labels-file", "labels.csv", "--holdout", "0", "--labels", "10"]
    assert classify(*FROZEN, *table, "--overwrite") == 0
    assert summary_of()["run"]["label_pattern"] is None
    assert summary_of()["tested_on"] == "hidden labels"


def test_groups_are_remembered_and_kept_on_one_side(here, classify, capsys):
    group = ["--group-by", r"(\d)\.png$"]  # ten groups
    assert pretrain("--data", "sorted", "--labels", "6", *group) == 0
    assert "10 groups of 20 photos" in capsys.readouterr().err
    assert classify(*FROZEN) == 0
    run = parts_of("runs/classifier-byol-frozen")
    labelled = {name[-5] for name in run["labelled"]}
    of_others = [name for name in run["unlabelled"] if name[-5] not in labelled]
    assert len(run["labelled"]) == 6
    assert summary_of()["test_images"] == len(of_others) < len(run["unlabelled"])
    capsys.readouterr()
    assert classify(*FROZEN, "--group-by", "none", "--runs", "others") == 0
    assert "was trained with --group-by (\\d)" in capsys.readouterr().err
    assert summary_of("others/classifier-byol-frozen")["test_images"] == 14


@pytest.mark.parametrize("freeze", [[], ["--freeze"]])
def test_copies_across_the_test_are_told(here, classify, capsys, freeze):
    folder = cartoon_folder(here / "split", train=16, test=8)
    copied = sorted((folder / "train").rglob("*.png"))[3]
    Image.open(copied).save(folder / "test" / copied.parent.name / "copy.jpg", quality=95)
    random = ["--data", "split", "--image-size", "32", "--store-size", "40"]
    assert classify(*random, *freeze, "--run-dir", "run") == 0
    said = capsys.readouterr().err
    (line,) = [line for line in said.splitlines() if "nearly the same" in line]
    assert "/copy.jpg ~ train/" in line
    assert f"~ {copied.relative_to(folder)}" in line
    assert summary_of("run")["near_duplicates"] >= 1
    assert summary_of("run")["near_duplicates_among"] == 9


def test_balanced_weights_are_those_of_the_closed_form(drawings, in_tmp):
    """N / (K n_c): the loss is then the mean over the classes of their mean losses."""
    folder = shutil.copytree(drawings / "sorted", "uneven")
    for path in sorted(sorted(Path(folder).iterdir())[0].glob("*.png"))[3:]:
        path.unlink()
    photos = open_photos(str(folder), 32, progress=False)
    truth = torch.from_numpy(photos.labels[make_split(photos, None).labelled])
    assert class_weights("none", truth, 2) is None
    weights = class_weights("balanced", truth, 2)
    torch.testing.assert_close(weights, torch.tensor([13 / (2 * 3), 13 / (2 * 10)]))
    torch.manual_seed(0)
    scores = torch.randn(13, 2)
    each = F.cross_entropy(scores, truth, reduction="none")
    expected = (each[truth == 0].mean() + each[truth == 1].mean()) / 2
    torch.testing.assert_close(F.cross_entropy(scores, truth, weights), expected)


def test_balanced_weights_make_another_classifier_of_uneven_classes(here, classify, capsys):
    for path in sorted(sorted(Path("sorted").iterdir())[0].glob("*.png"))[5:]:
        path.unlink()
    random = ["--data", "sorted", "--image-size", "32", "--store-size", "32", "--holdout", "4"]
    for kind in ("none", "balanced"):
        assert classify(*random, "--class-weights", kind, "--run-dir", f"w-{kind}") == 0
    assert "balanced class weights" in capsys.readouterr().err
    none, balanced = (
        checkpoint.load(f"w-{kind}/classifier.pt", checkpoint.CLASSIFIER)["head"]["weight"]
        for kind in ("none", "balanced")
    )
    assert not torch.equal(none, balanced)
    assert summary_of("w-balanced")["run"]["class_weights"] == "balanced"


def test_bad_labels_are_one_sentence_and_leave_nothing(here, classify, capsys):
    for flags, word in (
        (["--labels-file", "none.csv"], "--labels-file none.csv"),
        (["--label-pattern", "("], "--label-pattern ("),
        (["--group-by", "zzz"], "--group-by zzz"),
        (["--labelled", "gone"], "--labelled gone"),
        (["--labelled", "inbox"], "--labelled inbox"),
        (["--label-pattern", "a", "--labels-file", "b"], "exclude each other"),
    ):
        fails(capsys, pretrain("--data", "inbox", *flags), word)
        code = classify("--data", "inbox", "--image-size", "32", *flags)
        fails(capsys, code, word)
    assert not Path("byol.pt").exists()
    fails(capsys, classify("--data", "inbox", "--image-size", "32"), "docs/labels.md")
