"""Pictures of photos by `plot_losses.py`: from the files of runs, and what is passed over."""

import json
import os
import re
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from narrow_encoder import narrow
from photo_files import cartoon_folder
from PIL import Image
from refusals import fails

import plot_losses
import train_byol
import train_classifier
from byol.errors import UserError
from byol.report import redraw
from byol.report.redraw import Redraw
from byol.run.folder import lock_run_folder
from byol.run.left import read_trained

OF_PHOTOS = ["views.png", "map.png", "neighbours.png", "mistakes.png"]
ALL = ["accuracy.png", "pretraining.png", *OF_PHOTOS[:3], "confusion.png", "mistakes.png",
       "loss2.png", "loss1.png"]  # fmt: skip
FAST = ["--epochs", "2", "--batch-size", "4", "--amp", "off", "--device", "cpu", "--folds", "0"]
NO_DRAWING = pytest.mark.usefixtures("no_drawing")  # it is about which are drawn


@pytest.fixture(scope="module")
def runs(narrow_run, cache, tmp_path_factory) -> Path:
    """A folder with a pretrained encoder and four classifiers."""
    folder = tmp_path_factory.mktemp("all") / "job"
    shutil.copytree(narrow_run.folder, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("BYOL_CACHE", str(cache))
        narrow(patch)
        for part in (["--freeze"], []):
            assert train_classifier.main([*FAST, *part, "--init", "byol.pt"]) == 0
            summary = json.loads(Path("runs/byol/config.json").read_text())
            flags = ["--data", summary["data"], "--labels", "8", "--image-size", "32",
                     "--store-size", "32", "--mean", "0.4", "0.5", "0.6",
                     "--std", "0.3", "0.2", "0.25"]  # fmt: skip
            assert train_classifier.main([*FAST, *part, *flags]) == 0
    return folder


@pytest.fixture
def job(runs, in_tmp, narrow_encoder) -> Path:
    """The same, for one test."""
    shutil.copytree(runs, "job")
    os.chdir("job")
    return Path.cwd()


def plot(capsys, *flags) -> tuple[list[str], str]:
    """Draw: the names of the files that are told, and what is on stderr."""
    capsys.readouterr()
    assert plot_losses.main(list(flags)) == 0
    told = capsys.readouterr()
    return [Path(line).name for line in told.out.splitlines() if line.endswith(".png")], told.err


def test_all_pictures_are_drawn_and_told_in_order(job, capsys):
    names, told = plot(capsys)
    assert names == ALL
    assert told == ""
    assert sorted([*ALL, "index.html"]) == sorted(os.listdir("plots"))
    page = Path("plots/index.html").read_text().replace("</span> <span>", " ")
    assert page.count("<figure>") == len(ALL)
    words = re.sub("<[^>]+>", "", page)
    assert "python train_byol.py --data" in words  # the command, as it was recorded
    for name in ALL:
        with Image.open(f"plots/{name}") as picture:
            pixels = np.asarray(picture.convert("RGB"))
        assert 500 < pixels.shape[1] <= 1700, name
        assert pixels.std() > 20, name
        assert (pixels[[0, -1]] == 255).mean() > 0.9, name  # the ground is white


@NO_DRAWING
def test_without_photos_the_figures_alone_are_drawn(job, capsys):
    names, told = plot(capsys, "--no-photos")
    assert names == [name for name in ALL if name not in OF_PHOTOS]
    assert told == ""


@NO_DRAWING
def test_photos_that_moved_are_drawn_from_their_pack(runs, in_tmp, narrow_encoder, capsys):
    photos = cartoon_folder(in_tmp / "mine", train=32, test=12)
    tiny = ["--data", str(photos), "--labels", "8", "--image-size", "32", "--store-size", "32",
            "--hidden-dim", "16", "--projection-dim", "8", "--losses", "classic", "--amp", "off",
            "--health-every", "0", "--batch-size", "8", "--epochs", "1",
            "--device", "cpu"]  # fmt: skip
    assert train_byol.main(tiny) == 0
    shutil.rmtree(photos)
    names, told = plot(capsys)
    assert names == ["pretraining.png", "views.png", "map.png", "neighbours.png"]
    assert "passed over" not in told


@NO_DRAWING
def test_without_the_pack_pictures_are_passed_over_and_each_is_named(job, capsys, monkeypatch):
    monkeypatch.setenv("BYOL_CACHE", str(job / "elsewhere"))
    names, told = plot(capsys)
    assert names == [name for name in ALL if name not in OF_PHOTOS]
    lines = [line for line in told.splitlines() if line.startswith("passed over")]
    assert [line.split()[2] for line in lines] == [f"{name}:" for name in OF_PHOTOS]
    assert all("BYOL_CACHE" in line for line in lines)
    assert plot_losses.main(["--quiet"]) == 0
    assert capsys.readouterr().err == ""


@NO_DRAWING
def test_without_an_encoder_the_others_are_drawn(job, capsys):
    Path("runs/byol/last.pt").unlink()
    Path("byol.pt").unlink()
    names, told = plot(capsys)
    assert names == [name for name in ALL if name not in ("map.png", "neighbours.png")]
    assert told.count("there is no encoder yet: no last.pt in runs/byol, and no byol.pt") == 2

    shutil.rmtree("runs/byol")  # then that of the frozen classifier is the same
    names, told = plot(capsys)
    assert names == [name for name in ALL if name not in ("pretraining.png", "views.png")]

    for folder in Path("runs").glob("classifier-byol-*"):
        shutil.rmtree(folder)
    names, told = plot(capsys)
    assert "map.png" not in names
    assert "mistakes.png" in names
    assert "passed over  map.png: there is no run yet of a pretrained encoder" in told


@NO_DRAWING
def test_damaged_files_cost_their_pictures_alone(job, capsys):
    Path("runs/byol/split.json").write_text("[")
    Path("runs/byol/last.pt").write_bytes(b"no")
    for path in Path("runs").glob("classifier-*/classifier.pt"):
        path.write_bytes(b"no")
    names, told = plot(capsys)
    assert names == [name for name in ALL if name not in OF_PHOTOS]
    for word in ("split.json is damaged", "last.pt", "classifier.pt"):
        assert word in told
    assert "Traceback" not in told


@NO_DRAWING
def test_labels_that_changed_since_are_seen(in_tmp, narrow_encoder, capsys):
    """Views depend on which photos are learned from, and the test on which are hidden."""
    photos = cartoon_folder(in_tmp / "mine", train=32, test=0)
    names = sorted(str(p.relative_to(photos)) for p in photos.rglob("*.png"))
    table = Path("labels.csv")

    def write(shift: int) -> None:
        lines = [f"{name},{'ab'[(n + shift) % 2]}\n" for n, name in enumerate(names[shift:])]
        table.write_text("file,label\n" + "".join(lines))

    write(0)
    flags = ["--data", str(photos), "--labels-file", "labels.csv", "--labels", "8",
             "--image-size", "32", "--store-size", "32", "--amp", "off",
             "--device", "cpu"]  # fmt: skip
    tiny = ["--hidden-dim", "16", "--projection-dim", "8", "--losses", "classic",
            "--health-every", "0", "--batch-size", "8", "--epochs", "1"]  # fmt: skip
    assert train_byol.main([*flags, *tiny]) == 0
    classifier = ["--freeze", "--epochs", "2", "--folds", "0", "--init", "byol.pt"]
    assert train_classifier.main([*classifier, "--amp", "off", "--device", "cpu"]) == 0
    drawn, _ = plot(capsys)
    assert {"views.png", "mistakes.png"} <= set(drawn)
    write(9)
    drawn, told = plot(capsys)
    assert not {"views.png", "mistakes.png"} & set(drawn)
    assert "passed over  views.png: the labels are not those of runs/byol" in told
    assert "passed over  mistakes.png: the labels are not those of the test" in told
    table.unlink()
    drawn, told = plot(capsys)
    assert "labels.csv" in told
    assert "pretraining.png" in drawn


def test_photos_without_a_class_have_a_map_and_neighbours(in_tmp, narrow_encoder, capsys):
    folder = in_tmp / "mine"
    for number, path in enumerate(cartoon_folder(in_tmp / "made", train=24, test=0).rglob("*.png")):
        folder.mkdir(exist_ok=True)
        with Image.open(path) as image:  # twice as wide as high
            image.resize((80, 40)).save(folder / f"{number}.png")
    tiny = ["--data", str(folder), "--image-size", "32", "--store-size", "32", "--channels", "grey",
            "--hidden-dim", "16", "--projection-dim", "8", "--losses", "classic", "--amp", "off",
            "--health-every", "0", "--batch-size", "8", "--epochs", "1",
            "--device", "cpu"]  # fmt: skip
    assert train_byol.main(tiny) == 0
    names, told = plot(capsys)
    assert names == ["pretraining.png", "views.png", "map.png", "neighbours.png"]
    with Image.open("plots/views.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert np.ptp(pixels, axis=-1).max() <= 1  # grey, the photos too
    with Image.open("plots/neighbours.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert not (pixels == (0xD5, 0x5E, 0x00)).all(2).any()  # no frame
    assert "passed over" not in told


@NO_DRAWING
def test_of_cross_validation_there_are_no_mistakes_to_show(job, capsys):
    for path in Path("runs").glob("*/summary.json"):
        summary = {**json.loads(path.read_text()), "tested_on": "cross-validation"}
        path.write_text(json.dumps(summary))
    names, told = plot(capsys)
    assert "mistakes.png" not in names
    assert "confusion.png" in names
    assert "cross-validation" in told


def same(weights: dict, others: dict) -> bool:
    return weights.keys() == others.keys() and all(
        torch.equal(weights[key], others[key]) for key in weights
    )


def test_the_encoder_of_a_run_is_in_its_state_or_else_where_it_was_written(job, capsys):
    folder = Path("runs/byol")
    written = torch.load("byol.pt", weights_only=True)
    content, config = read_trained(folder)
    assert same(content["encoder"], written["encoder"])
    assert content["data_fingerprint"] == written["data_fingerprint"]
    assert config.epochs == 2
    (folder / "last.pt").unlink()
    assert same(read_trained(folder)[0]["encoder"], written["encoder"])
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "seed": 5}))
    with pytest.raises(UserError, match=r"byol\.pt is of another run"):
        read_trained(folder)
    classifier = Path("runs/classifier-byol-frozen")
    assert same(read_trained(classifier)[0]["encoder"], written["encoder"])


# ---- --watch


@pytest.fixture
def often(monkeypatch) -> None:
    """Look every few milliseconds, and wait for nothing."""
    monkeypatch.setattr(redraw, "LOOK_EVERY", 0.02)
    monkeypatch.setattr(redraw, "SHARE", 1e9)


@NO_DRAWING
def test_watch_ends_if_no_run_goes_on(job, capsys, often):
    names, _ = plot(capsys, "--watch", "--no-photos")
    assert "pretraining.png" in names


@NO_DRAWING
def test_watch_draws_again_what_has_changed_until_the_run_ends(job, capsys, often):
    """The run writes a line, and ends: pretraining.png is drawn twice, the others once."""
    lock = lock_run_folder(Path("runs/byol"))
    before = Path("runs/byol/metrics.jsonl").read_text()
    drawn = Path("plots/pretraining.png")

    def go_on() -> None:
        while not drawn.exists():
            time.sleep(0.01)
        time.sleep(0.5)
        times.append(drawn.stat().st_mtime_ns)
        line = {**json.loads(before.splitlines()[-1]), "loss": 7.5}
        Path("runs/byol/metrics.jsonl").write_text(before + json.dumps(line) + "\n")
        while drawn.stat().st_mtime_ns == times[0]:
            time.sleep(0.01)
        lock.close()

    times = []
    run = threading.Thread(target=go_on)
    run.start()
    names, told = plot(capsys, "--watch", "--no-photos")
    run.join()
    assert names == [name for name in ALL if name not in OF_PHOTOS]
    lines = [line.split()[1] for line in told.splitlines() if line.startswith("drawn ")]
    assert lines.count("pretraining.png") == 2
    assert lines.count("accuracy.png") == lines.count("confusion.png") == 1


@NO_DRAWING
def test_watch_waits_for_the_first_line_of_a_run(in_tmp, capsys, often):
    folder = Path("runs/byol")
    folder.mkdir(parents=True)
    lock = lock_run_folder(folder)

    def begin() -> None:
        time.sleep(0.2)
        row = {"step": 1, "epoch": 0.5, "loss": 4.0, "lr": 0.1, "tau": 0.99, "spread": 0.8}
        (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
        time.sleep(0.2)
        lock.close()

    threading.Thread(target=begin).start()
    names, told = plot(capsys, "--watch")
    assert names == ["pretraining.png"]
    assert told.count("passed over  views.png: there is no runs/byol/config.json") == 1


@NO_DRAWING
def test_watch_of_nothing_is_an_error_at_its_end(in_tmp, capsys, often):
    Path("runs").mkdir()
    fails(capsys, plot_losses.main(["--watch"]), "no finished run")


@NO_DRAWING
def test_ctrl_c_ends_watching_with_its_exit_code(job, capsys, often):
    with lock_run_folder(Path("runs/byol")):

        def stop() -> None:
            while not Path("plots/loss1.png").exists():
                time.sleep(0.01)
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=stop).start()
        assert plot_losses.main(["--watch", "--no-photos"]) == 130
    told = capsys.readouterr().err
    assert "interrupted: the pictures in plots are as they were last drawn" in told
    assert not list(Path("plots").glob(".*"))


def test_a_thing_is_made_again_if_its_files_changed_and_enough_time_has_gone(in_tmp, monkeypatch):
    """Made in 1 s, it waits 1 s / 0.1 = 10 s, but not for the last time."""
    now = [100.0]
    monkeypatch.setattr(redraw.time, "monotonic", lambda: now[0])
    made = []

    def make() -> int:
        now[0] += 1.0
        made.append(now[0])
        return len(made)

    file, remember = Path("file"), Redraw()
    remember.last = False
    assert remember("thing", [file], make) == 1
    file.write_text("a")
    now[0] += 9
    assert remember("thing", [file], make) == 1
    now[0] += 2
    assert remember("thing", [file], make) == 2
    now[0] += 100
    assert remember("thing", [file], make) == 2  # nothing has changed
    file.write_text("more")
    now[0] = made[-1] + 1
    remember.last = True
    assert remember("thing", [file], make) == 3
