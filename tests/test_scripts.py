"""The three scripts through their `main(argv)`, on tiny data, and what bad input gets."""

import dataclasses
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from photo_files import cartoon_folder
from PIL import Image
from processes import wait_for
from refusals import fails

import plot_losses
import train_byol
import train_classifier
from byol import checkpoint, files, run_log
from byol.augment import RECIPES, View, central_view
from byol.encoder import Encoder
from byol.metrics import read_jsonl
from byol.schedules import lr_at, tau_at
from data import open_photos

ROOT = Path(__file__).resolve().parent.parent
REAL = ROOT.parent / "shared" / "datasets" / "cats_vs_dogs.zip"
TINY = ["--image-size", "32", "--store-size", "32", "--hidden-dim", "32", "--projection-dim", "16",
        "--batch-size", "8", "--epochs", "2", "--log-every", "2", "--optimizer", "sgd",
        "--losses", "classic", "--tau0", "0.99", "--warmup-epochs", "10",
        "--recipe", "cartoons", "--amp", "off", "--device", "cpu", "--save-every", "0",
        "--mean", "0.4", "0.5", "0.6", "--std", "0.3", "0.2", "0.25"]  # fmt: skip
TINY_CLASSIFIER = ["--epochs", "3", "--batch-size", "4", "--amp", "off", "--device", "cpu"]


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A folder of 44 cartoons in two classes, with a test split of 12."""
    return cartoon_folder(tmp_path_factory.mktemp("photos"), train=32, test=12)


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def in_tmp(tmp_path, cache, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BYOL_CACHE", str(cache))


def pretrain(photos, *extra):
    return train_byol.main(["--data", str(photos), "--labels", "8", *TINY, *extra])


def classify(*extra):
    return train_classifier.main([*TINY_CLASSIFIER, *extra])


@pytest.fixture(scope="session")
def encoder_file(photos, cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained")
    os.environ["BYOL_CACHE"] = str(cache)
    out, run = str(folder / "byol.pt"), str(folder / "run")
    assert pretrain(photos, "--out", out, "--run-dir", run) == 0
    return Path(out)


def test_the_whole_job(photos, capsys, tmp_path):
    assert pretrain(photos) == 0
    banner = capsys.readouterr().out
    assert "24 unlabelled images" in banner
    assert "8 labelled" in banner
    assert "12 in a test split" in banner
    assert "rate 0.06 x 8/256 =" in banner
    rows = read_jsonl("runs/byol/metrics.jsonl")
    assert [row["step"] for row in rows] == [2, 3, 4, 6]  # every second, and where epochs end
    for row in rows:
        assert row.keys() == {"step", "epoch", "loss", "lr", "tau", "images_per_second", "spread"}
        assert 0 < row["loss"] < 8
    assert json.loads(Path("runs/byol/config.json").read_text())["batch_size"] == 8
    split = json.loads(Path("runs/byol/split.json").read_text())
    assert len(split["labelled"]) == 8

    content = torch.load("byol.pt", weights_only=True)
    missing, unexpected = torchvision.models.resnet18().load_state_dict(
        content["encoder"], strict=False
    )
    assert (sorted(missing), unexpected) == (["fc.bias", "fc.weight"], [])
    assert content["image_size"] == 32
    assert content["mean"] == [0.4, 0.5, 0.6]
    online = torch.load("runs/byol/last.pt", weights_only=True)["model"]
    for key, value in content["encoder"].items():
        assert torch.equal(value, online[f"encoder.{key}"]), key

    data = ["--data", str(photos), "--labels", "8"]
    size = ["--image-size", "32", "--store-size", "32"]
    for seed in ("0", "1"):
        assert classify(*data, *size, "--seed", seed) == 0
        assert classify(*data, *size, "--seed", seed, "--freeze") == 0
        assert classify("--init", "byol.pt", "--seed", seed) == 0
    assert classify("--init", "byol.pt", "--freeze", "--seeds", "2") == 0
    summary = json.loads(Path("runs/classifier-byol-frozen/summary.json").read_text())
    assert summary["tested_on"] == "test split"
    assert (summary["labels"], summary["test_images"], summary["freeze"]) == (8, 12, True)
    assert [row["epoch"] for row in read_jsonl("runs/classifier-byol-full/metrics.jsonl")] == [
        1, 2, 3,
    ]  # fmt: skip
    assert Path("runs/classifier-random-full-seed1/classifier.pt").is_file()
    second = json.loads(Path("runs/classifier-byol-frozen-seed1/summary.json").read_text())
    assert second["seed"] == 1

    capsys.readouterr()
    assert plot_losses.main([]) == 0
    captured = capsys.readouterr()
    assert "no run" not in captured.out + captured.err
    assert "(2 seeds)" in captured.out
    for name in ("loss1", "loss2", "accuracy", "pretraining"):
        with Image.open(f"plots/{name}.png") as picture:
            assert np.asarray(picture.convert("L")).std() > 5


def test_what_is_written_can_be_used_without_the_project(encoder_file, tmp_path):
    """The README's lines on a photo of the packed size give what the project's own parts give."""
    draw = np.random.default_rng(0)
    for number in range(12):
        file = tmp_path / "square" / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(256, size=(32, 32, 3), dtype=np.uint8)).save(file)
    shutil.copy(encoder_file, "byol.pt")
    square = ["--data", str(tmp_path / "square"), "--labels", "8"]
    assert classify("--init", "byol.pt", "--freeze", *square) == 0
    shutil.copy(file, "photo.jpg")
    readme = (ROOT / "README.md").read_text()
    code = readme[readme.index('    content = torch.load("byol.pt"') :]
    lines = [line[4:] for line in code.partition("\n## ")[0].splitlines() if line[:4] == " " * 4]
    known = {"torch": torch, "torchvision": torchvision, "Image": Image}
    exec("\n".join(lines), known)

    content = torch.load("runs/classifier-byol-frozen/classifier.pt", weights_only=True)
    encoder = Encoder().eval()
    encoder.load_state_dict(content["encoder"])
    packed = open_photos(str(tmp_path / "square"), 32)
    row = np.array([list(packed.names).index("b/11.png")])
    images = torch.from_numpy(packed.images[row])
    view = central_view(images, packed.sizes[row], 32, content["mean"], content["std"])
    scores = encoder(view) @ content["head"]["weight"].T + content["head"]["bias"]
    torch.testing.assert_close(known["scores"], scores, atol=1e-3, rtol=1e-3)


def test_a_pretrained_encoder_can_learn_at_a_rate_of_its_own(encoder_file, photos, capsys):
    before = torch.load(encoder_file, weights_only=True)["encoder"]
    data = ["--data", str(photos), "--labels", "8", "--lr", "0.01"]
    results = {}
    for scale in ("0", "0.1", "1"):
        for init in (str(encoder_file), "random"):
            folder = f"{scale}-{init == 'random'}"
            flags = ["--init", init, "--run-dir", folder, "--encoder-lr-scale", scale]
            size = ["--image-size", "32", "--store-size", "32"] if init == "random" else []
            assert classify(*data, *flags, *size) == 0
            content = torch.load(f"{folder}/classifier.pt", weights_only=True)
            results[scale, init == "random"] = content["encoder"]
    weights = "layer1.0.conv1.weight"
    moved = {s: (results[s, False][weights] - before[weights]).norm() for s in ("0", "0.1", "1")}
    assert moved["0"] == 0
    assert 0 < moved["0.1"] < 0.3 * moved["1"]
    for scale in ("0", "0.1"):  # random weights have to learn: the scale is not for them
        assert torch.equal(results[scale, True][weights], results["1", True][weights])
    code = classify("--init", str(encoder_file), "--freeze", "--encoder-lr-scale", "0.1")
    fails(capsys, code, "--encoder-lr-scale is for the full model")


def test_several_seeds_in_one_go_are_what_each_is_alone(encoder_file, photos, capsys):
    assert classify("--init", str(encoder_file), "--seeds", "2") == 0
    assert classify("--init", str(encoder_file), "--seed", "1", "--run-dir", "alone") == 0
    alone = Path("alone/metrics.jsonl").read_text()
    assert Path("runs/classifier-byol-full-seed1/metrics.jsonl").read_text() == alone
    assert Path("runs/classifier-byol-full/metrics.jsonl").read_text() != alone
    code = classify("--init", str(encoder_file), "--seeds", "2", "--run-dir", "x")
    fails(capsys, code, "--run-dir", "--runs")


def test_frozen_means_frozen_and_the_saved_classifier_repeats_its_accuracy(encoder_file, photos):
    assert classify("--init", str(encoder_file), "--freeze") == 0
    before = checkpoint.load(encoder_file, checkpoint.ENCODER)["encoder"]
    after = checkpoint.load("runs/classifier-byol-frozen/classifier.pt", checkpoint.CLASSIFIER)
    assert before.keys() == after["encoder"].keys()
    assert (after["mean"], after["std"]) == ([0.4, 0.5, 0.6], [0.3, 0.2, 0.25])  # the checkpoint's
    for key, value in before.items():
        assert torch.equal(value, after["encoder"][key]), key

    model = torchvision.models.resnet18()
    model.fc = torch.nn.Linear(512, 2)
    model.load_state_dict(
        {**after["encoder"], "fc.weight": after["head"]["weight"], "fc.bias": after["head"]["bias"]}
    )
    model.eval()
    hits, names = 0, sorted((photos / "test").glob("*/*.png"))
    for path in names:
        image = torchvision.transforms.functional.to_tensor(Image.open(path).resize((32, 32), 3))
        x = torchvision.transforms.functional.normalize(image, after["mean"], after["std"])
        hits += after["classes"][model(x[None]).argmax()] == path.parent.name
    summary = json.loads(Path("runs/classifier-byol-frozen/summary.json").read_text())
    assert hits / len(names) == pytest.approx(summary["test_accuracy"], abs=1 / len(names))


def test_full_training_changes_the_encoder(encoder_file):
    assert classify("--init", str(encoder_file)) == 0
    before = checkpoint.load(encoder_file, checkpoint.ENCODER)["encoder"]
    after = checkpoint.load("runs/classifier-byol-full/classifier.pt", checkpoint.CLASSIFIER)
    assert not torch.equal(before["conv1.weight"], after["encoder"]["conv1.weight"])


def test_the_same_seed_gives_the_same_weights_and_another_does_not(photos, encoder_file):
    again = pretrain(photos, "--out", "again.pt", "--run-dir", "again")
    other = pretrain(photos, "--out", "other.pt", "--run-dir", "other", "--seed", "1")
    assert (again, other) == (0, 0)
    first, same, different = (
        torch.load(path, weights_only=True)["encoder"]["conv1.weight"]
        for path in (encoder_file, "again.pt", "other.pt")
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, different)


def test_deterministic_changes_nothing_on_the_cpu(photos, encoder_file, monkeypatch):
    """It is for CUDA, which needs what is asked for here; a later run may be without it."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    seen = []
    update = train_byol.BYOL.update_target

    def look(self, tau):
        seen.append(torch.are_deterministic_algorithms_enabled())
        update(self, tau)

    monkeypatch.setattr(train_byol.BYOL, "update_target", look)
    assert pretrain(photos, "--deterministic") == 0
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert classify("--init", "byol.pt", "--deterministic") == 0
    assert torch.are_deterministic_algorithms_enabled()
    assert pretrain(photos, "--overwrite", "--epochs", "1", "--out", "later.pt") == 0
    assert seen == [True] * 6 + [False] * 3
    first, same = (checkpoint.load(f, checkpoint.ENCODER) for f in (encoder_file, "byol.pt"))
    for key, value in first["encoder"].items():
        assert torch.equal(value, same["encoder"][key]), key


def test_an_operation_that_is_never_deterministic_is_one_sentence(photos, capsys, monkeypatch):
    def refused(self, tau):
        raise RuntimeError(
            "some_backward_cuda does not have a deterministic implementation, but you set "
            "'torch.use_deterministic_algorithms(True)'. You can turn off determinism just for "
            "this operation, or you can use the 'warn_only=True' option.\nMore."
        )

    monkeypatch.setattr(train_byol.BYOL, "update_target", refused)
    words = "--deterministic: some_backward_cuda has no deterministic version here; leave"
    fails(capsys, pretrain(photos, "--deterministic"), words)
    with pytest.raises(RuntimeError, match="some_backward_cuda"):  # not asked for: a fault of ours
        pretrain(photos)


def test_accumulation_makes_one_update_per_batch(photos, monkeypatch):
    """Two pieces of four: one step of the target a batch, and the rate of the whole batch."""
    updates = []
    update = train_byol.BYOL.update_target
    monkeypatch.setattr(
        train_byol.BYOL, "update_target", lambda self, tau: updates.append(tau) or update(self, tau)
    )
    every = ["--epochs", "1", "--log-every", "1"]
    assert pretrain(photos, *every, "--accumulate", "2", "--run-dir", "two", "--out", "2.pt") == 0
    assert len(updates) == 3
    assert pretrain(photos, *every, "--run-dir", "one", "--out", "1.pt") == 0
    one, two = (read_jsonl(f"{name}/metrics.jsonl") for name in ("one", "two"))
    for key in ("step", "lr", "tau"):
        assert [row[key] for row in one] == [row[key] for row in two]


def test_views_have_a_size_of_their_own(photos, capsys):
    """The run is that of an image size as small; the encoder is for the larger one."""
    losses = []
    for name, sizes in (("small", ["--image-size", "16"]), ("both", ["--view-size", "16"])):
        assert pretrain(photos, "--run-dir", name, "--out", f"{name}.pt", *sizes) == 0
        losses.append([row["loss"] for row in read_jsonl(f"{name}/metrics.jsonl")])
        assert "views       16 px, from" in capsys.readouterr().out
    assert losses[0] == losses[1]
    assert checkpoint.load("small.pt", checkpoint.ENCODER)["image_size"] == 16
    assert checkpoint.load("both.pt", checkpoint.ENCODER)["image_size"] == 32
    fails(capsys, pretrain(photos, "--overwrite", "--view-size", "40"), "view_size 40", "32")


def test_a_recipe_is_changed_by_flags(photos, capsys, monkeypatch):
    def losses(*flags):
        assert pretrain(photos, "--epochs", "1", "--overwrite", *flags) == 0
        return [row["loss"] for row in read_jsonl("runs/byol/metrics.jsonl")]

    plain = losses()
    assert "recipe cartoons\n" in capsys.readouterr().out
    flags = ("--crop-min", "0.5", "--jitter-strength", "0.5", "--grayscale", "0.3")
    changed = losses(*flags, "--solarize", "1")
    told = "recipe cartoons, crop min 0.5, jitter strength 0.5, grayscale 0.3, solarize 1\n"
    assert told in capsys.readouterr().out
    view = View((0.5, 1), (3 / 4, 4 / 3), 0.5, 0.8, 0.2, 0.2, 0.1, 0.25, 0.3)
    pair = (view, dataclasses.replace(view, solarize=1.0))
    monkeypatch.setitem(RECIPES, "cartoons", pair)
    assert changed == losses() != plain
    fails(capsys, pretrain(photos, "--overwrite", "--crop-min", "2"), "crop_min", "1")


def test_an_encoder_is_not_replaced_unasked(photos, capsys):
    Path("byol.pt").write_bytes(b"another run's")
    fails(capsys, pretrain(photos), "byol.pt", "--overwrite", "another name")
    assert Path("byol.pt").read_bytes() == b"another run's"
    assert not Path("runs/byol/last.pt").exists()
    assert pretrain(photos, "--out", "mine.pt") == 0
    assert pretrain(photos, "--resume", "--epochs", "3", "--out", "mine.pt") == 0  # its own
    assert pretrain(photos, "--overwrite") == 0
    checkpoint.load("byol.pt", checkpoint.ENCODER)


@pytest.mark.parametrize(("optimizer", "rate"), [("lars", 2.0), ("sgd", 0.06), ("adamw", 1e-3)])
def test_every_optimizer_trains_at_its_own_default(photos, optimizer, rate):
    argv = ["--epochs", "1", "--log-every", "1", "--warmup-epochs", "0.34"]  # a step of warm-up
    assert pretrain(photos, "--optimizer", optimizer, *argv) == 0
    rates = [row["lr"] for row in read_jsonl("runs/byol/metrics.jsonl")]
    assert max(rates) == pytest.approx(rate * 8 / 256)


def test_bf16_trains(photos):
    assert pretrain(photos, "--amp", "bf16", "--epochs", "1") == 0
    assert np.isfinite(read_jsonl("runs/byol/metrics.jsonl")[-1]["loss"])


def test_flat_folder_is_all_unlabelled(tmp_path, capsys):
    folder = tmp_path / "flat"
    folder.mkdir()
    for index in range(16):
        noise = np.random.default_rng(index).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{index}.jpg")
    assert train_byol.main(["--data", str(folder), *TINY, "--epochs", "1"]) == 0
    capsys.readouterr()
    fails(capsys, classify("--init", "byol.pt", "--freeze"), "class folders")


def started_run(photos, *extra):
    """A process that trains for long, once it has written two lines of metrics."""
    command = [sys.executable, str(ROOT / "train_byol.py"), "--data", str(photos), "--labels", "8",
               *TINY, "--epochs", "400", *extra]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    metrics = Path("runs/byol/metrics.jsonl")
    wait_for(lambda: metrics.exists() and len(read_jsonl(metrics)) >= 2, process)
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_how_to_go_on(photos, number, code):
    process = started_run(photos)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert "--resume" in errors
    assert "Traceback" not in errors
    stopped = torch.load("runs/byol/last.pt", weights_only=True)["step"]
    assert 3 <= stopped < 1200


def test_a_second_run_in_the_same_folder_is_refused(photos, capsys):
    process = started_run(photos)
    wait_for(Path("runs/byol/last.pt").exists, process)
    for flag in ("--resume", "--overwrite"):
        fails(capsys, pretrain(photos, flag), f"in use by process {process.pid}")
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert pretrain(photos, "--overwrite", "--epochs", "1") == 0


def test_two_ctrl_c_do_no_harm(photos):
    process = started_run(photos)
    last = Path("runs/byol/last.pt")
    wait_for(last.exists, process)
    saved = checkpoint.load(last, checkpoint.TRAINING)["step"]
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in errors
    assert "Traceback" not in errors
    assert checkpoint.load_state(Path("runs/byol"))["step"] >= saved


@pytest.mark.parametrize(("steps", "damaged"), [(1, False), (4, False), (5, True)])
def test_resume_gives_the_result_of_an_unbroken_run(photos, monkeypatch, capsys, steps, damaged):
    """Stopped before the first line of metrics, at a line amid an epoch, and between two lines.

    Once with a damaged last.pt, as a loss of power may leave it beside previous.pt.
    """
    assert pretrain(photos, "--out", "whole.pt", "--run-dir", "whole") == 0

    class StopAfterSome:
        code = 130

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        @property
        def asked(self):
            return step_counter["n"] >= steps

    step_counter = {"n": 0}
    update = train_byol.BYOL.update_target

    def counted(self, tau):
        step_counter["n"] += 1
        update(self, tau)

    with monkeypatch.context() as patch:
        patch.setattr(train_byol, "Interrupt", StopAfterSome)
        patch.setattr(train_byol.BYOL, "update_target", counted)
        assert pretrain(photos, "--out", "part.pt", "--run-dir", "part") == 130
    assert not Path("part.pt").exists()
    assert torch.load("part/last.pt", weights_only=True)["step"] == steps
    if damaged:
        Path("part/last.pt").rename("part/previous.pt")
        Path("part/last.pt").write_bytes(Path("part/previous.pt").read_bytes()[:-1])
    capsys.readouterr()
    assert pretrain(photos, "--out", "part.pt", "--run-dir", "part", "--resume") == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if "previous.pt" in line]
    assert len(warnings) == damaged
    assert not Path("part/previous.pt").exists()
    whole, part = (torch.load(f"{n}.pt", weights_only=True)["encoder"] for n in ("whole", "part"))
    for key, value in whole.items():
        assert torch.equal(value, part[key]), key
    whole, part = (read_jsonl(f"{name}/metrics.jsonl") for name in ("whole", "part"))
    assert [row["step"] for row in whole] == [2, 3, 4, 6]
    for row in whole + part:
        assert row.pop("images_per_second") > 0
    assert part == whole


@pytest.mark.parametrize("stopped", [False, True])
def test_a_run_is_lengthened_by_epochs_on_resume(photos, capsys, monkeypatch, stopped):
    """A finished run of 6 steps, or one that was stopped at 3, goes on to 12 by their schedule."""
    run = Path("runs/byol")
    if stopped:
        save = checkpoint.save_state

        def save_and_stop(run_dir, content):
            save(run_dir, content)
            os.kill(os.getpid(), signal.SIGTERM)

        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "save_state", save_and_stop)
            pretrain(photos)
    else:
        assert pretrain(photos) == 0
    first = checkpoint.load_state(run)["step"]
    earlier = [row for row in read_jsonl(run / "metrics.jsonl") if row["step"] <= first]
    capsys.readouterr()
    assert pretrain(photos, "--epochs", "4", "--resume") == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note")]
    assert len(notes) == 1
    assert "--epochs was 2 and is now 4" in notes[0]
    rows = read_jsonl(run / "metrics.jsonl")
    assert rows[: len(earlier)] == earlier
    assert [row["step"] for row in rows] == [2, 3, 4, 6, 8, 9, 10, 12]
    for row in rows[len(earlier) :]:
        step = row["step"] - 1
        assert row["lr"] == lr_at(step, 12, 6, 0.06 * 8 / 256)
        assert row["tau"] == tau_at(step, 12, 0.99)
    assert json.loads((run / "config.json").read_text())["epochs"] == 4
    assert checkpoint.load_state(run)["step"] == 12
    assert checkpoint.load("byol.pt", checkpoint.ENCODER)["step"] == 12
    assert pretrain(photos, "--epochs", "4", "--resume") == 0  # as any run
    assert "note" not in capsys.readouterr().out
    code = pretrain(photos, "--epochs", "3", "--resume")
    fails(capsys, code, "epochs was 4 and is now 3", "--epochs may be raised")
    assert checkpoint.load_state(run)["config"]["epochs"] == 4


def test_a_file_or_a_default_does_not_lengthen_a_run(photos, capsys):
    assert pretrain(photos) == 0
    at = TINY.index("--epochs")
    argv = ["--data", str(photos), "--labels", "8", *TINY[:at], *TINY[at + 2 :], "--resume"]
    fails(capsys, train_byol.main(argv), "(epochs was 2 and is now 240)")


def test_checkpoints_come_no_more_often_than_asked(photos, monkeypatch):
    saved = []
    save = checkpoint.save_state

    def counted(run_dir, content):
        saved.append(content["step"])
        save(run_dir, content)

    monkeypatch.setattr(checkpoint, "save_state", counted)
    assert pretrain(photos) == 0
    assert saved == [3, 6]  # each epoch
    saved.clear()
    assert pretrain(photos, "--overwrite", "--save-every", "600") == 0
    assert saved == [6]  # the end
    saved.clear()
    assert pretrain(photos, "--overwrite", "--save-every", "600", "--save-within", "0") == 0
    assert saved == [1, 2, 3, 4, 5, 6]  # amid epochs


def test_resume_refuses_other_images(photos, capsys, tmp_path):
    folder = tmp_path / "mine"
    shutil.copytree(photos, folder)
    assert pretrain(folder, "--epochs", "1") == 0
    some = next(folder.glob("train/*/*.png"))
    shutil.copy(some, some.with_name("new.png"))
    fails(capsys, pretrain(folder, "--epochs", "1", "--resume"), "--resume", "other images")


@pytest.mark.parametrize(("times", "code"), [(1, 0), (2, 130)])
def test_ctrl_c_while_the_encoder_is_written(photos, capsys, monkeypatch, times, code):
    """The first lets it finish; the second stops at once, and --resume finishes."""
    save = checkpoint.save

    def interrupted(*args):
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGINT)
        save(*args)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", interrupted)
        assert pretrain(photos, "--epochs", "1") == code
    assert Path("byol.pt").is_file() == (code == 0)
    assert ("--resume takes the last checkpoint" in capsys.readouterr().err) == (code == 130)
    assert pretrain(photos, "--epochs", "1", "--resume") == 0
    assert Path("byol.pt").is_file()


def test_ctrl_c_outside_the_loop_is_one_sentence(photos, capsys, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(train_byol, "open_photos", stop)
    assert pretrain(photos) == 130
    assert "nothing was saved; run the command again" in capsys.readouterr().err


def test_holdout_is_seen_by_neither_stage(photos):
    assert pretrain(photos, "--holdout", "6", "--out", "h.pt") == 0
    split = json.loads(Path("runs/byol/split.json").read_text())
    assert len(split["holdout"]) == 6
    assert not set(split["holdout"]) & (set(split["unlabelled"]) | set(split["labelled"]))
    assert classify("--init", "h.pt", "--freeze") == 0
    again = json.loads(Path("runs/classifier-byol-frozen/split.json").read_text())
    assert again["holdout"] == split["holdout"]
    assert again["labelled"] == split["labelled"]


def test_a_holdout_that_pretraining_has_seen_is_refused(encoder_file, capsys):
    code = classify("--init", str(encoder_file), "--freeze", "--holdout", "6")
    fails(capsys, code, "--holdout", "has seen")


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--batch-size", "100"], ["--batch-size 100", "24"]),
        (["--batch-size", "1"], ["batch_size", "at least 2"]),
        (["--accumulate", "3"], ["--accumulate 3", "--batch-size 8"]),
        (["--accumulate", "8"], ["BatchNorm"]),
        (["--labels", "50"], ["50", "--labels"]),
        (["--image-size", "4"], ["image_size"]),
        (["--device", "tpu"], ["--device"]),
        (["--resume"], ["--resume"]),
        (["--resume", "--overwrite"], ["--overwrite"]),
        (["--out", "."], ["folder"]),
        (["--amp", "fp16", "--device", "cpu"], ["fp16", "CUDA"]),
        (["--data", "nowhere"], ["nowhere"]),
    ],
)
def test_bad_pretraining_input(photos, capsys, extra, words):
    fails(capsys, pretrain(photos, *extra), *words)
    assert not Path("byol.pt").exists()


def test_a_run_is_not_overwritten_unasked(photos, capsys):
    assert pretrain(photos, "--epochs", "1") == 0
    before = Path("runs/byol/metrics.jsonl").read_bytes()
    fails(capsys, pretrain(photos, "--epochs", "1"), "--resume", "--overwrite", "runs/byol")
    assert Path("runs/byol/metrics.jsonl").read_bytes() == before
    other = ["--epochs", "1", "--resume", "--batch-size", "4", "--tau0", "0.9"]
    words = "batch_size was 8 and is now 4; tau0 was 0.99 and is now 0.9", "--device,", "may differ"
    fails(capsys, pretrain(photos, *other), *words)
    fails(capsys, pretrain(photos, "--overwrite", "--batch-size", "100"), "--batch-size 100")
    assert Path("runs/byol/last.pt").is_file()  # a refused command costs nothing
    assert Path("runs/byol/metrics.jsonl").read_bytes() == before
    assert pretrain(photos, "--epochs", "1", "--overwrite") == 0


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_state(photos, capsys, monkeypatch):
    term = train_byol.BYOL.term
    calls = {"n": 0}

    def broken(self, view, targets):
        loss, spread = term(self, view, targets)
        calls["n"] += 1  # the first three are an epoch
        return (loss * float("nan"), spread) if calls["n"] > 3 else (loss, spread)

    monkeypatch.setattr(train_byol.BYOL, "term", broken)
    rate = "learning rate 0.00094 (--lr 0.06)"  # half of the peak, amid the six steps
    kept = "the last good state is runs/byol/last.pt"
    code = pretrain(photos, "--warmup-epochs", "0")
    fails(capsys, code, f"the loss is not finite at step 4, {rate}; {kept};", "with a lower --lr")
    state = torch.load("runs/byol/last.pt", weights_only=True)
    assert state["step"] == 3
    assert all(torch.isfinite(v).all() for v in state["model"].values())
    assert not Path("byol.pt").exists()


@pytest.fixture
def fp16(monkeypatch):
    """float16 on the CPU, where the gradients overflow in the steps that the set names alone.

    At the usual scale the first steps of a model this small overflow by themselves.
    """
    monkeypatch.setattr(train_byol, "pick_amp", lambda *_: torch.float16)
    low = functools.partial(torch.amp.GradScaler, init_scale=2.0**8)
    monkeypatch.setattr(torch.amp, "GradScaler", low)
    overflowing = set()
    step, term = {"n": -1}, train_byol.BYOL.term
    update = train_byol.BYOL.update_target

    def counted(self, tau):
        step["n"] += 1
        update(self, tau)

    def overflow(self, view, targets):
        losses, spreads = term(self, view, targets)
        if step["n"] + 1 in overflowing and losses.requires_grad:
            losses.register_hook(lambda gradient: gradient * float("inf"))
        return losses, spreads

    monkeypatch.setattr(train_byol.BYOL, "update_target", counted)
    monkeypatch.setattr(train_byol.BYOL, "term", overflow)
    return overflowing


@pytest.mark.parametrize("optimizer", ["lars", "sgd", "adamw"])
def test_steps_that_float16_skips_are_counted(photos, capsys, fp16, optimizer):
    fp16 |= {0, 4}
    assert pretrain(photos, "--optimizer", optimizer) == 0
    rows = read_jsonl("runs/byol/metrics.jsonl")
    assert [(row["step"], row["skipped_steps"]) for row in rows] == [(2, 1), (3, 1), (4, 1), (6, 2)]
    assert ", 2 steps skipped as float16 overflowed" in capsys.readouterr().out


def test_float16_that_overflows_for_long_is_an_error(photos, capsys, fp16):
    """At 2**8 / 2**8 it may still be well; below it is an error, at the next line."""
    fp16 |= set(range(2, 10))
    assert pretrain(photos, "--epochs", "4") == 0
    assert read_jsonl("runs/byol/metrics.jsonl")[-1]["skipped_steps"] == 8
    capsys.readouterr()
    fp16 |= set(range(12 + 1, 12 + 10))  # counted on from the run above
    code = pretrain(photos, "--epochs", "4", "--overwrite")
    fails(capsys, code, "overflow float16: 9 steps were skipped", "step 10,", "--amp bf16", "--lr")
    assert checkpoint.load_state(Path("runs/byol"))["step"] == 9


def test_skipped_steps_are_counted_on_after_a_resume(photos, fp16):
    fp16 |= {1, 3}
    assert pretrain(photos, "--epochs", "1") == 0
    assert pretrain(photos, "--epochs", "2", "--resume") == 0
    assert read_jsonl("runs/byol/metrics.jsonl")[-1]["skipped_steps"] == 2


@pytest.mark.parametrize(("value", "warnings"), [(0.05, 1), (0.15, 0)])
def test_a_collapse_is_told_once(photos, capsys, monkeypatch, value, warnings):
    term = train_byol.BYOL.term

    def alike(self, view, targets):
        losses, spreads = term(self, view, targets)
        return losses, torch.full_like(spreads, value)

    monkeypatch.setattr(train_byol.BYOL, "term", alike)
    monkeypatch.setattr(run_log, "COLLAPSED_STEPS", 4)  # of 12; the line is written each 2
    assert pretrain(photos, "--epochs", "4") == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(told) == warnings
    if told:
        assert "since step 0 " in told[0]
        assert "--lr" in told[0]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), "the GPU has too little memory"),
        (MemoryError(), "this machine has too little memory"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't "
                         "allocate memory: you tried to allocate 9 bytes. Error code 12"),
            "this machine has too little memory",
        ),
    ],
)  # fmt: skip
def test_too_little_memory_is_one_sentence(photos, capsys, monkeypatch, error, words):
    def full(self, tau):
        raise error

    monkeypatch.setattr(train_byol.BYOL, "update_target", full)
    fails(capsys, pretrain(photos), words, "--batch-size", "--accumulate")


def test_a_full_disk_is_one_sentence(photos, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "last.pt")

    monkeypatch.setattr(files.os, "fsync", full)
    fails(capsys, pretrain(photos), "no room to write ")


def test_bad_classifier_input(photos, encoder_file, capsys, tmp_path):
    fails(capsys, classify("--init", "none.pt"), "none.pt")
    state = encoder_file.parent / "run" / "last.pt"
    fails(capsys, classify("--init", str(state)), "last.pt", "state of training")
    (tmp_path / "junk.pt").write_bytes(b"junk")
    fails(capsys, classify("--init", "junk.pt"), "junk.pt")
    lacking = torch.load(encoder_file, weights_only=True)
    del lacking["stem"]
    torch.save(lacking, "lacking.pt")
    fails(capsys, classify("--init", "lacking.pt"), "lacking.pt", "lacks stem")
    code = classify("--init", str(encoder_file), "--freeze", "--lr", "1")
    fails(capsys, code, "--lr is for the full model", "--frozen-lr")
    code = classify("--init", str(encoder_file), "--image-size", "64")
    fails(capsys, code, "--image-size 64", "32")
    fails(capsys, classify("--init", str(encoder_file), "--labels", "0"), "--labels")
    fails(capsys, classify("--init", str(encoder_file), "--labels", "999"), "999")
    (tmp_path / "file").write_text("")
    fails(capsys, classify("--init", str(encoder_file), "--run-dir", "file/x"), "--run-dir")
    one = tmp_path / "one" / "cat"
    one.mkdir(parents=True)
    for index in range(12):
        Image.new("RGB", (40, 40), (index, 0, 0)).save(one / f"{index}.png")
    fails(capsys, classify("--data", "one", "--image-size", "32", "--labels", "4"), "class")


def test_plots_name_what_is_missing_and_go_on(encoder_file, capsys):
    assert classify("--init", str(encoder_file), "--freeze") == 0
    damaged = Path("runs/damaged")
    damaged.mkdir()
    (damaged / "metrics.jsonl").write_text('{"epoch": 1, "loss": 1}\n')
    (damaged / "summary.json").write_text("{")
    capsys.readouterr()
    assert plot_losses.main([]) == 0
    captured = capsys.readouterr()
    assert "random frozen backbone" in captured.err
    assert "pretraining" in captured.err
    assert "damaged" in captured.err
    assert Path("plots/loss2.png").is_file()
    assert not Path("plots/loss1.png").exists()


def test_runs_that_do_not_compare_are_left_out(encoder_file, capsys):
    assert classify("--init", str(encoder_file), "--freeze", "--labels", "4", "--runs", "runs") == 0
    shutil.copy(encoder_file, "other.pt")
    for seed, file in enumerate((encoder_file, "other.pt"), 1):
        assert classify("--init", str(file), "--freeze", "--seed", str(seed)) == 0
    assert plot_losses.main([]) == 0
    captured = capsys.readouterr()
    labels, weights = (line for line in captured.err.splitlines() if line.startswith("left out"))
    assert "labels" in labels
    assert labels.endswith(": classifier-byol-frozen")
    assert "other.pt" in weights
    assert weights.endswith(": classifier-byol-frozen-seed1")
    assert "seeds" not in captured.out


def test_plots_read_runs_from_before_features_were_a_choice(encoder_file, capsys):
    assert classify("--init", str(encoder_file), "--freeze") == 0
    path = Path("runs/classifier-byol-frozen/summary.json")
    summary = json.loads(path.read_text())
    assert summary.pop("features") == "avgpool"
    path.write_text(json.dumps(summary))
    assert plot_losses.main([]) == 0
    assert "damaged" not in capsys.readouterr().err


def test_a_run_of_an_earlier_version_is_not_resumed(photos, capsys):
    assert pretrain(photos) == 0
    content = checkpoint.load("runs/byol/last.pt", checkpoint.TRAINING)
    del content["config"]["taps"]
    checkpoint.save_state(Path("runs/byol"), content)
    fails(capsys, pretrain(photos, "--resume"), "earlier version", "taps", "--run-dir")


def test_plots_without_runs(capsys, tmp_path):
    fails(capsys, plot_losses.main([]), "runs")
    (tmp_path / "runs").mkdir()
    fails(capsys, plot_losses.main([]), "no finished run")


def test_real_photos(tmp_path):
    """A few hundred of the real photos, two empty files among them, from zip to pictures.

    With losses on inner blocks and their features, which at 48 px and more are averaged to a grid.
    """
    if not REAL.is_file():
        pytest.skip(f"the real photos are not at {REAL}")
    with zipfile.ZipFile(REAL) as source, zipfile.ZipFile("some.zip", "w") as some:
        for kind, empty in (("Cat", 666), ("Dog", 11702)):
            for number in [*range(150), empty]:
                name = f"PetImages/{kind}/{number}.jpg"
                some.writestr(name, source.read(name))
    size = ["--image-size", "48", "--labels", "20"]
    multi = ["--losses", "multi", "--optimizer", "adamw", "--batch-size", "32", "--epochs", "1"]
    assert train_byol.main(["--data", "some.zip", *size, *multi]) == 0
    assert classify("--init", "byol.pt", "--freeze") == 0
    assert classify("--init", "byol.pt", "--freeze", "--features", "combined") == 0
    assert classify("--init", "byol.pt", "--features", "combined") == 0
    combined = json.loads(Path("runs/classifier-byol-frozen-combined/summary.json").read_text())
    assert combined["features"] == "combined"
    summary = json.loads(Path("runs/classifier-byol-frozen/summary.json").read_text())
    assert summary["tested_on"] == "hidden labels"
    assert summary["test_images"] == 280
    assert plot_losses.main([]) == 0
