"""predict.py: what a user gets for photos, as CSV, as JSON lines, and sorted into folders."""

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from narrow_encoder import narrow
from photo_files import png, write_folder, write_zip
from refusals import fails

import predict
import train_classifier
from byol.evaluation.classifier import Classifier
from byol.evaluation.folds import Folds
from byol.run import checkpoint
from data import open_photos
from data.stream import Stream

MODEL = "runs/classifier-byol-frozen/classifier.pt"


@pytest.fixture(scope="module")
def trained(narrow_run, cache, classify, tmp_path_factory) -> Path:
    """The folder in which `model` was trained."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("BYOL_CACHE", str(cache))
        narrow(patch)
        init = str(narrow_run.folder / "byol.pt")
        assert classify("--init", init, "--freeze", "--folds", "2") == 0
    return folder


@pytest.fixture
def model(narrow_encoder, trained) -> str:
    """A classifier of the drawings; it has seen 8 of them with labels."""
    shutil.copytree(trained, ".", dirs_exist_ok=True)
    return MODEL


def rows(path: str) -> list[dict]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_classes_and_accuracy_are_those_of_the_test(model, photos, capsys):
    assert predict.main([str(photos), "--model", model, "--out", "p.csv", "--amp", "off"]) == 0
    summary = json.loads(Path("runs/classifier-byol-frozen/summary.json").read_text())
    table = rows("p.csv")
    packed = open_photos(str(photos), 32)
    assert [row["file"] for row in table] == [f"{photos}/{name}" for name in packed.names]
    test = [row for row, name in zip(table, packed.names, strict=True) if name.startswith("test")]
    hits = [row["class"] == Path(row["file"]).parent.name for row in test]
    assert sum(hits) / len(hits) == pytest.approx(summary["test_accuracy"])

    device = torch.device("cpu")
    classifier = Classifier.load(model, device)
    expected = classifier.predict(packed, np.arange(len(table)), device, None)
    found = torch.tensor([[float(row["cat"]), float(row["dog"])] for row in table])
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)
    for row, chances in zip(table, expected, strict=True):
        assert float(row["confidence"]) == pytest.approx(chances.max().item(), abs=2e-6)
        assert 0 <= float(row["unlike"]) <= 1
    err = capsys.readouterr().err
    assert "predicted 44 photos: " in err
    assert "wrote p.csv" in err


def test_the_temperature_is_in_the_probabilities(model, photos):
    content = checkpoint.load(model, checkpoint.CLASSIFIER)
    assert content["temperature"] > 0
    checkpoint.save("hot.pt", checkpoint.CLASSIFIER, {**content, "temperature": 1e12})
    assert predict.main([str(photos), "--model", "hot.pt", "--out", "p.csv"]) == 0
    assert {row["confidence"] for row in rows("p.csv")} == {"0.500000"}


def test_results_go_to_stdout_and_all_else_to_stderr(model, photos, capfd):
    capfd.readouterr()
    assert predict.main([str(photos), "--model", model]) == 0
    out, err = capfd.readouterr()
    assert out.startswith("file,class,confidence,unlike,cat,dog\r\n")
    assert out.count("\r\n") == 45
    assert "predicted 44 photos" in err
    assert predict.main([str(photos), "--model", model, "--quiet"]) == 0
    assert capfd.readouterr() == (out, "")


def test_json_lines_say_the_same(model, photos, capfd):
    assert predict.main([str(photos), "--model", model, "--out", "p.csv"]) == 0
    flags = ["--model", model, "--format", "jsonl", "--min-confidence", "1"]
    assert predict.main([str(photos), *flags, "--out", "p.jsonl"]) == 0
    lines = [json.loads(line) for line in Path("p.jsonl").read_text().splitlines()]
    for row, line in zip(rows("p.csv"), lines, strict=True):
        assert (line["file"], line["class"]) == (row["file"], None)
        assert line["confidence"] == pytest.approx(float(row["confidence"]), abs=1e-6)
        assert line["unlike"] == pytest.approx(float(row["unlike"]), abs=1e-3)
        assert line["probabilities"]["cat"] == pytest.approx(float(row["cat"]), abs=1e-6)


def test_a_photo_that_is_not_sure_has_no_class(model, photos):
    out = ["--model", model, "--out", "p.csv"]
    assert predict.main([str(photos), *out]) == 0
    confidences = sorted(float(row["confidence"]) for row in rows("p.csv"))
    limit = confidences[22]
    assert predict.main([str(photos), *out, "--min-confidence", str(limit + 1e-5)]) == 0
    assert [row["class"] == "" for row in rows("p.csv")] == [
        float(row["confidence"]) < limit + 1e-5 for row in rows("p.csv")
    ]


def test_copies_are_sorted_and_nothing_is_moved_or_overwritten(model, photos, tmp_path, capsys):
    content = {f"{n}.png": png(n, 40) for n in range(6)} | {"deep/0.png": png(9, 40)}
    inbox = write_folder(tmp_path / "inbox", content)
    flags = [str(inbox), "--model", model, "--sort-into", str(inbox / "sorted")]
    assert predict.main([*flags, "--out", "p.csv"]) == 0
    assert "copied 7 into" in capsys.readouterr().err
    copies = {p: p.read_bytes() for p in (inbox / "sorted").rglob("*.png")}
    assert sorted(copies.values()) == sorted(content.values())
    for row in rows("p.csv"):
        blob = Path(row["file"]).read_bytes()
        assert any(b == blob and p.parent.name == row["class"] for p, b in copies.items())
    same = next(path for path in copies if path.name == "3.png")
    same.write_bytes(b"something of the user's")  # a name that is taken now
    assert predict.main(flags) == 0  # the copies are not taken for new photos
    assert "predicted 7 photos" in (err := capsys.readouterr().err)
    assert "copied 1 into" in err
    assert "6 were there already" in err
    assert same.read_bytes() == b"something of the user's"
    assert (same.parent / f"{same.stem}-2.png").read_bytes() == copies[same]


def test_copies_do_not_go_among_other_photos(model, tmp_path, capsys):
    """The mark of the folder would hide them from later scripts."""
    inbox = write_folder(tmp_path / "inbox", {"cat/1.png": png(1), "2.png": png(2)})
    for folder in (inbox, inbox / "cat"):
        code = predict.main([str(inbox), "--model", model, "--sort-into", str(folder)])
        fails(capsys, code, f"--sort-into {folder}", "give a new folder")
    assert sorted(p.name for p in inbox.rglob("*")) == ["1.png", "2.png", "cat"]
    (tmp_path / "empty").mkdir()
    assert predict.main([str(inbox), "--model", model, "--sort-into", str(tmp_path / "empty")]) == 0


def test_a_copy_does_not_list_its_folder(tmp_path, monkeypatch):
    """For 20,000 copies that would take minutes. What a killed process left is removed."""
    listed = []
    real = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path=".": listed.append(path) or real(path))
    write_folder(tmp_path / "sorted", {".byol-sorted": b"", ".copy.999999999.tmp": b"half"})
    folders = predict.open_sorted(str(tmp_path / "sorted"), ["cat"])
    for number in range(50):
        assert predict.write_beside(folders["cat"], Path(f"{number}.png"), b"photo") == "copied"
    assert len(listed) <= 2
    assert len(real(tmp_path / "sorted/cat")) == 50
    assert sorted(real(tmp_path / "sorted")) == [".byol-sorted", "cat"]


def test_an_interrupt_tells_what_is_copied(model, photos, capsys, monkeypatch):
    real, calls = os.replace, []

    def replace(*paths):
        calls.append(paths)
        if len(calls) == 3:
            raise KeyboardInterrupt
        real(*paths)

    flags = [str(photos), "--model", model, "--out", "p.csv", "--sort-into", "sorted"]
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        assert predict.main(flags) == 130
    assert "interrupted: 2 photos are copied into sorted already" in capsys.readouterr().err
    assert len(list(Path("sorted").rglob("*.png"))) == 2
    assert not Path("p.csv").exists()
    assert predict.main(flags) == 0
    assert "2 were there already" in capsys.readouterr().err


def test_a_copy_that_cannot_be_written_is_one_sentence(model, tmp_path, capsys):
    write_folder(tmp_path / "in", {f"{'a' * 250}.png": png(1)})
    flags = ["in", "--model", model, "--sort-into"]
    assert predict.main([*flags, "long"]) == 0
    assert [p.read_bytes() for p in Path("long").rglob("*.png")] == [png(1)]
    write_folder(tmp_path / "taken", {".byol-sorted": b"", "cat": b"", "dog": b""})  # no folders
    code = predict.main([*flags, "taken", "--out", "p.csv"])
    fails(capsys, code, "--sort-into: no copy can be written into", "taken/")
    assert not Path("p.csv").exists()


def test_photos_in_an_archive_are_predicted_and_copied(model, tmp_path):
    source = write_zip(tmp_path / "a.zip", {"x/1.png": png(0), "../2.png": png(1)})
    assert predict.main([str(source), "--model", model, "--out", "p.csv", "--sort-into", "s"]) == 0
    assert [row["file"] for row in rows("p.csv")] == [f"{source}/2.png", f"{source}/x/1.png"]
    assert len(list(Path("s").rglob("*.png"))) == 2


def test_broken_photos_are_named_and_counted(model, tmp_path, capsys):
    write_folder(tmp_path / "in", {"a.png": png(0), "b.png": b"", "c.mp4": b"\0"})
    assert predict.main(["in", "--model", model, "--out", "p.csv"]) == 0
    err = capsys.readouterr().err
    assert "skipped in/b.png: empty file" in err
    assert "skipped 1 that cannot be read" in err
    assert "passed over: 1 video (c.mp4)" in err or "passed over: 1 video (in/c.mp4)" in err
    assert len(rows("p.csv")) == 1


def test_names_survive(model, tmp_path):
    odd = 'comma, "quote"\nline é.png'
    write_folder(tmp_path / "in", {odd: png(0)})
    bad = os.fsdecode(b"in/\xff.png")  # no UTF-8
    Path(bad).write_bytes(png(1))
    assert predict.main(["in", "--model", model, "--out", "p.csv"]) == 0
    with open("p.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
        names = [row["file"] for row in csv.DictReader(file)]
    assert sorted(names) == sorted([f"in/{odd}", bad])


@pytest.mark.parametrize("out", [[], ["--out", "p.csv"]])
def test_none_that_can_be_read_is_an_error_and_leaves_nothing(model, tmp_path, capsys, out):
    write_folder(tmp_path / "in", {"b.png": b"", "c.txt": b"x"})
    Path("p.csv").write_text("of the user")
    code = predict.main(["in", "--model", model, *out])
    fails(capsys, code, "in: none of 1 photos can be read", "passed over: 1 text file")
    assert Path("p.csv").read_text() == "of the user"
    assert list(Path().glob(".*.tmp")) == []


def test_bad_input_is_one_sentence(model, photos, narrow_run, capsys, tmp_path):
    data, encoder = str(photos), str(narrow_run.folder / "byol.pt")
    for flags, *words in [
        (["nowhere", "--model", model], "nowhere: no such file"),
        ([data, "--model", encoder], "an encoder that train_byol.py wrote"),
        ([data, "--model", "none.pt"], "there is no checkpoint none.pt"),
        ([data], "--model"),
        ([data, "--model", model, "--min-confidence", "2"], "a number from 0 to 1"),
        ([data, "--model", model, "--out", str(tmp_path)], "is a folder"),
        ([data, "--model", model, "--out", "/proc/x/p.csv"], "/proc/x"),
        ([data, "--model", model, "--sort-into", "/proc/x"], "--sort-into", "/proc/x"),
    ]:
        fails(capsys, predict.main(flags), *words)


def test_a_classifier_of_earlier_versions_predicts_without_what_it_lacks(model, photos, capsys):
    content = checkpoint.load(model, checkpoint.CLASSIFIER)
    for key in ("temperature", "looks"):
        del content[key]
    checkpoint.save("old.pt", checkpoint.CLASSIFIER, content)
    assert predict.main([str(photos), "--model", "old.pt", "--out", "p.csv"]) == 0
    assert "old.pt lacks calibrated probabilities and what photos it knows" in (
        capsys.readouterr().err
    )
    assert {row["unlike"] for row in rows("p.csv")} == {""}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_one_sentence(model, photos, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("byol.files.os.fsync", full)
    code = predict.main([str(photos), "--model", model, "--out", "p.csv"])
    fails(capsys, code, "no room to write p.csv")
    assert not Path("p.csv").exists()


def test_all_labels_are_judged_by_cross_validation(
    narrow_encoder, narrow_run, tmp_path, classify, capsys, photos
):
    """No test split, no holdout, no hidden label: the final classifier learns from all."""
    only = tmp_path / "only"
    os.symlink(photos / "train", only)
    flags = ["--init", str(narrow_run.folder / "byol.pt"), "--data", str(only), "--labels", "all"]
    assert classify(*flags, "--freeze", "--folds", "4") == 0
    out, err = capsys.readouterr()
    assert "tested by cross-validation" in err
    assert "32 images (cross-validation)" in out
    summary = json.loads(Path("runs/classifier-byol-frozen/summary.json").read_text())
    assert summary["tested_on"] == "cross-validation"
    assert (summary["labels"], summary["test_images"]) == (32, 32)
    assert summary["cross_validation"]["folds"] == 4
    assert summary["test_accuracy"] == pytest.approx(summary["cross_validation"]["accuracy"])
    assert np.sum(summary["confusion"]) == 3 * 32

    assert classify(*flags, "--folds", "2") == 0
    told = "as long as 1 more trainings; --folds 0 leaves it out"
    assert told in capsys.readouterr().err
    assert classify(*flags, "--folds", "0", "--run-dir", "untested") == 0
    assert "not tested" in capsys.readouterr().out
    summary = json.loads(Path("untested/summary.json").read_text())
    assert (summary["tested_on"], summary["test_accuracy"]) == ("nothing", None)
    assert classify(*flags, "--folds", "0", "--run-dir", "untested", "--resume") == 0
    assert "holds this run, finished" in capsys.readouterr().err


def test_a_fold_is_scored_by_the_encoder_that_was_trained_without_it(
    narrow_encoder, narrow_run, tmp_path, photos, classify, monkeypatch
):
    """As if train_classifier.py had the other fold's photos alone, and then scored this fold."""
    only = tmp_path / "only"
    os.symlink(photos / "train", only)
    flags = ["--init", str(narrow_run.folder / "byol.pt"), "--data", str(only), "--labels", "all",
             "--lr", "0.05", "--encoder-lr-scale", "1"]  # fmt: skip
    real, trained, noted = train_classifier.fit, [], []

    def keeping(classifier, config, photos, rows, *others):
        log = real(classifier, config, photos, rows, *others)
        trained.append((classifier, photos, rows))
        return log

    monkeypatch.setattr(train_classifier, "fit", keeping)
    note = Folds.note

    def spying(folds, repeat, of_fold, scores, flag, share):
        if share == 1:  # as it was trained
            noted.append((of_fold, scores.detach()))
        note(folds, repeat, of_fold, scores, flag, share)

    monkeypatch.setattr(Folds, "note", spying)
    assert classify(*flags, "--folds", "2") == 0
    assert len(noted) == 2
    everyone = trained[-1][2]
    for (of_fold, scores), (classifier, packed, rows) in zip(noted, trained, strict=False):
        assert sorted([*rows, *everyone[of_fold]]) == sorted(everyone)
        found = classifier.predict(packed, everyone[of_fold], torch.device("cpu"), None)
        torch.testing.assert_close(scores.softmax(1), found, atol=1e-5, rtol=1e-4)


def test_a_cross_validation_that_was_stopped_goes_on(
    narrow_encoder, narrow_run, photos, classify, monkeypatch
):
    flags = ["--init", str(narrow_run.folder / "byol.pt"), "--folds", "3", "--data", str(photos)]
    assert classify(*flags, "--run-dir", "whole") == 0
    real, calls = train_classifier.fit, []

    def stopping(*args):
        calls.append(len(args[3]))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(train_classifier, "fit", stopping)
    assert classify(*flags, "--run-dir", "stopped") == 130
    assert classify(*flags, "--run-dir", "stopped", "--resume") == 0
    assert len(calls) == 3 + 2  # the third fold, and the classifier itself
    whole, stopped = (checkpoint.load(f"{run}/classifier.pt", checkpoint.CLASSIFIER)
                      for run in ("whole", "stopped"))  # fmt: skip
    assert whole["temperature"] == stopped["temperature"]
    assert torch.equal(whole["head"]["weight"], stopped["head"]["weight"])
    assert not Path("stopped/folds.npy").exists()


def test_a_photo_that_is_gone_before_it_is_copied_is_named_and_stops_nothing(tmp_path, capsys):
    write_folder(tmp_path / "in", {"a.png": png(0), "b.png": png(1)})
    done = []
    for photo in Stream(["in"], (8, 8), lambda *_: None):
        if not done:
            Path(photo.path).unlink()
        done.append(predict.copy(photo, tmp_path / "sorted"))
    assert done == ["lost", "copied"]
    assert "not copied in/a.png: cannot be read: No such file" in capsys.readouterr().err
