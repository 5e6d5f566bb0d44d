"""Photos change between two runs: replaced, broken, or known by an earlier version."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from narrow_encoder import narrow
from PIL import Image, ImageOps
from refusals import fails

import train_byol
import train_classifier
from byol.errors import UserError
from byol.report.runs import can_be_compared
from byol.run.checkpoint import save, save_state
from byol.run.folder import check_same_settings

TINY = ["--labels", "8", "--image-size", "32", "--store-size", "40", "--hidden-dim", "16",
        "--projection-dim", "8", "--losses", "classic", "--batch-size", "8",
        "--recipe", "cartoons", "--amp", "off", "--device", "cpu",
        "--health-every", "0"]  # fmt: skip
CLASSIFY = ["--init", "byol.pt", "--freeze", "--epochs", "2", "--amp", "off", "--device", "cpu",
            "--folds", "0"]  # fmt: skip


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    """A folder with photos, a pretraining run and a classifier of them."""
    folder = tmp_path_factory.mktemp("trained")
    shutil.copytree(photos, folder / "photos")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("BYOL_CACHE", "cache")
        narrow(patch)
        assert train_byol.main(["--data", "photos", *TINY, "--epochs", "1"]) == 0
        assert train_classifier.main(CLASSIFY) == 0
    return folder


@pytest.fixture
def world(trained, narrow_encoder, tmp_path, monkeypatch):
    """A copy of `trained` to work in."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BYOL_CACHE", "cache")


def replace_photos():
    """All of them, under the same names."""
    for path in Path("photos").rglob("*.png"):
        ImageOps.invert(Image.open(path).convert("RGB")).save(path)


def make_earlier():
    """Let the files be of an earlier version, which knew photos by their names alone."""
    for name, write in (("byol.pt", save), ("runs/byol/last.pt", save_state)):
        content = torch.load(name, weights_only=True)
        content["data_fingerprint"] = content["data_fingerprint"].partition("-")[0]
        if write is save:
            save(name, "encoder", content)
        else:
            save_state(Path(name).parent, {k: v for k, v in content.items() if k != "kind"})
    path = Path("runs/classifier-byol-frozen/summary.json")
    summary = json.loads(path.read_text())
    summary["run"]["images"] = summary["run"]["images"].partition("-")[0]
    path.write_text(json.dumps(summary))


def test_photos_that_were_touched_are_the_same(world, capsys):
    for path in Path("photos").rglob("*.png"):
        path.touch()
    assert train_classifier.main([*CLASSIFY, "--resume"]) == 0
    assert "holds this run, finished" in capsys.readouterr().err


def test_files_of_an_earlier_version_know_the_photos_again(world, capsys):
    make_earlier()
    assert train_classifier.main([*CLASSIFY, "--resume"]) == 0
    assert "holds this run, finished" in capsys.readouterr().err
    assert train_byol.main(["--data", "photos", *TINY, "--epochs", "2", "--resume"]) == 0
    assert "going on at step 3" in capsys.readouterr().err


def test_photos_that_were_replaced_are_noticed(world, capsys):
    replace_photos()
    pretraining = ["--data", "photos", *TINY, "--epochs", "2", "--resume"]
    fails(capsys, train_byol.main(pretraining), "was started with other images than --data photos")
    again = train_classifier.main([*CLASSIFY, "--resume"])
    fails(capsys, again, "runs/classifier-byol-frozen", "finished run of other", "images")
    assert (
        train_classifier.main([*CLASSIFY, "--overwrite"]) == 0
    )  # the split is still the encoder's
    assert "8 labelled images" in capsys.readouterr().err


def test_a_stopped_classifier_says_that_the_images_are_others(tmp_path):
    before, now = {"images": "a-1", "epochs": 3}, {"images": "a-2", "epochs": 3}
    with pytest.raises(UserError, match=r"other settings \(other images\)"):
        check_same_settings(before, now, set(), set(), tmp_path)
    for same in ("a", "a-2"):
        check_same_settings({"images": same, "epochs": 3}, now, set(), set(), tmp_path)


def test_runs_of_an_earlier_version_are_compared_with_those_of_today():
    task = {"image_size": 32, "labels": 8, "representation": "avgpool", "tested_on": "test split",
            "test_images": 12}  # fmt: skip
    of_earlier, today, replaced = ({**task, "images": images} for images in ("a", "a-1", "a-2"))
    assert can_be_compared(of_earlier, today)
    assert can_be_compared(today, of_earlier)
    assert not can_be_compared(replaced, today)


def test_one_photo_more_keeps_the_settings_of_the_split_and_is_told(world, capsys):
    """The split is by hashed rank, so one photo more moves one image at most."""
    shutil.copy(next(Path("photos/train").rglob("*.png")), "photos/train/more.png")
    assert train_classifier.main([*CLASSIFY, "--runs", "others"]) == 0
    said = capsys.readouterr()
    assert "8 labelled images" in said.err
    assert "note        --data photos is not as it was when byol.pt learned from it" in said.err
    assert "it may have seen some that are tested on now" in said.err


def test_photos_of_the_same_names_keep_the_split_in_any_place(world, capsys):
    """Names are all that a split depends on. That they were replaced is told."""
    Path("photos").rename("moved")
    assert train_classifier.main([*CLASSIFY, "--data", "moved/", "--runs", "moved_runs"]) == 0
    said = capsys.readouterr()
    assert "8 labelled images" in said.err
    assert "not as it was" not in said.err
    Path("moved").rename("photos")
    replace_photos()
    Path("photos").rename("replaced")
    assert train_classifier.main([*CLASSIFY, "--data", "replaced", "--runs", "others"]) == 0
    said = capsys.readouterr()
    assert "8 labelled images" in said.err
    assert "--data replaced is not as it was" in said.err
    assert "may have seen" not in said.err


def test_photos_of_other_names_elsewhere_take_no_split_over(world, capsys):
    Path("photos").rename("moved")
    next(Path("moved/train").rglob("*.png")).rename("moved/train/more.png")
    more = ["--data", "moved", "--labels", "6", "--runs", "others"]
    assert train_classifier.main([*CLASSIFY, *more]) == 0
    assert "not as it was" not in capsys.readouterr().err


def test_broken_photos_are_skipped_if_asked(world, capsys):
    for path in sorted(Path("photos/train").rglob("*.png"))[:6]:
        path.write_bytes(b"")
    run = ["--data", "photos", *TINY, "--epochs", "1", "--run-dir", "b", "--out", "b.pt"]
    fails(capsys, train_byol.main(run), "6 of 44 files", "skipped.txt lists all", "--skip-broken")
    assert train_byol.main([*run, "--skip-broken"]) == 0
    assert "skipped 6 of 44 files" in capsys.readouterr().err
    classify = ["--init", "b.pt", *CLASSIFY[2:], "--runs", "of_b"]
    assert train_classifier.main(classify) == 0  # it knows of the encoder that they are skipped
    other = shutil.copytree("photos", "elsewhere")
    fails(capsys, train_classifier.main([*classify, "--data", other]), "--skip-broken")
    fails(capsys, train_byol.main([*run, "--resume"]), "--skip-broken")  # and not: another run
