"""evaluate.py through its `main(argv)`: the table of eight on tiny data, and bad input."""

import json
import os
from pathlib import Path

import pytest
import torch
from photo_files import cartoon_folder
from refusals import fails

import evaluate
import train_byol
import train_classifier
from byol import checkpoint
from byol.encoder import Encoder
from byol.metrics import read_jsonl
from byol.probe import extract_features
from data import make_split, open_photos

TINY = ["--image-size", "32", "--store-size", "32", "--hidden-dim", "32", "--projection-dim", "16",
        "--batch-size", "8", "--epochs", "1", "--log-every", "1", "--optimizer", "sgd",
        "--recipe", "small", "--amp", "off", "--device", "cpu", "--labels", "0",
        "--mean", "0.4", "0.5", "0.6", "--std", "0.3", "0.2", "0.25"]  # fmt: skip
FINE = ["--epochs", "2", "--batch-size", "4", "--supervised-epochs", "3", "--amp", "off"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder of drawings, and a checkpoint of each kind of training on it."""
    folder = tmp_path_factory.mktemp("world")
    os.environ["BYOL_CACHE"] = str(folder / "cache")
    cartoon_folder(folder / "photos", train=32, test=12)
    for losses in ("classic", "multi"):
        out = ["--out", str(folder / f"{losses}.pt"), "--run-dir", str(folder / losses)]
        data = ["--data", str(folder / "photos")]
        assert train_byol.main([*data, *TINY, "--losses", losses, *out]) == 0
    return folder


@pytest.fixture(autouse=True)
def in_tmp(tmp_path, world, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BYOL_CACHE", str(world / "cache"))


def judge(world, *extra, files=("classic", "multi")):
    return evaluate.main([*(str(world / f"{name}.pt") for name in files), *FINE, *extra])


def test_each_loss_is_a_column(world):
    rows = read_jsonl(world / "multi" / "metrics.jsonl")
    outputs = ("avgpool", "layer3.0", "layer2.0")
    for row in rows:
        parts = [row[f"loss_{name}"] for name in outputs]
        assert all(0 < part < 8 for part in parts)
        assert row["loss"] == pytest.approx(sum(parts), rel=1e-5)
        assert len(set(parts)) == 3
        assert row["spread"] == row["spread_avgpool"]
    assert "loss_avgpool" not in read_jsonl(world / "classic" / "metrics.jsonl")[0]


def test_weights_of_the_losses_count(world):
    code = train_byol.main(["--data", str(world / "photos"), *TINY, "--losses", "multi",
                            "--loss-weights", "1", "0.5", "0"])  # fmt: skip
    assert code == 0
    for row in read_jsonl("runs/byol/metrics.jsonl"):
        expected = row["loss_avgpool"] + 0.5 * row["loss_layer3.0"]
        assert row["loss"] == pytest.approx(expected, rel=1e-5)


def test_the_table_of_eight(world, capsys):
    assert judge(world, "--labels", "8", "all", "--seeds", "2", "1") == 0
    content = json.loads(Path("evaluation/table.json").read_text())
    cells = {
        (c["weights"], c["features"], c["protocol"], c["labels"]): c["values"]
        for c in content["cells"]
    }
    for weights in ("classic", "multi", "random"):
        for features in ("avgpool", "combined"):
            for protocol in ("linear", "knn", "fine-tuned"):
                assert len(cells[weights, features, protocol, "8"]) == 2
                assert len(cells[weights, features, protocol, "all"]) == 1
        assert len(cells[weights, "combined-plain", "linear", "8"]) == 2
    assert len(cells["supervised, 3 epochs", "avgpool", "fine-tuned", "all"]) == 1
    assert all(0 <= value <= 1 for values in cells.values() for value in values)
    assert {c["name"] for c in content["checkpoints"]} == {"classic", "multi"}

    table = Path("evaluation/table.md").read_text()
    assert table in capsys.readouterr().out
    mean = 50 * sum(cells["multi", "combined", "linear", "8"])
    assert f"| multi | combined | {mean:.1f} ± " in table
    only = 100 * cells["classic", "avgpool", "fine-tuned", "all"][0]
    assert f" {only:.1f} |" in next(r for r in table.split("all labels")[1].splitlines()
                                    if r.startswith("| classic | avgpool"))  # fmt: skip
    assert Path("evaluation/table.png").read_bytes().startswith(b"\x89PNG")


def test_a_second_call_repeats_the_frozen_part_alone(world, monkeypatch):
    assert judge(world, "--labels", "8", "--seeds", "1") == 0
    first = json.loads(Path("evaluation/table.json").read_text())["cells"]
    trained = []
    train = train_classifier.train
    monkeypatch.setattr(
        train_classifier, "train", lambda *a: trained.append(a[0].run_dir) or train(*a)
    )
    assert judge(world, "--labels", "8", "--seeds", "1") == 0
    assert trained == []
    assert json.loads(Path("evaluation/table.json").read_text())["cells"] == first
    summary = next(Path("evaluation/runs").glob("multi-*combined*")) / "summary.json"
    summary.unlink()  # as if this run had been cut off
    assert judge(world, "--labels", "8", "--seeds", "1") == 0
    assert [Path(run) for run in trained] == [summary.parent]
    assert json.loads(Path("evaluation/table.json").read_text())["cells"] == first


def test_fine_tuning_in_the_table_is_train_classifier(world):
    assert judge(world, "--labels", "8", "--seeds", "1", files=("multi",)) == 0
    cells = json.loads(Path("evaluation/table.json").read_text())["cells"]
    expected = next(c["values"][0] for c in cells
                    if (c["weights"], c["features"], c["protocol"])
                    == ("multi", "combined", "fine-tuned"))  # fmt: skip
    code = train_classifier.main(
        ["--init", str(world / "multi.pt"), "--features", "combined", "--labels", "8", "--epochs",
         "2", "--batch-size", "4", "--amp", "off", "--run-dir", "alone"])  # fmt: skip
    assert code == 0
    assert json.loads(Path("alone/summary.json").read_text())["test_accuracy"] == expected


@pytest.mark.parametrize("init", ["random", "classic", "multi"])
@pytest.mark.parametrize("freeze", [True, False])
@pytest.mark.parametrize("features", ["combined", "combined-plain"])
def test_the_classifier_of_combined_features_repeats_its_accuracy(world, init, freeze, features):
    """The saved head takes raw features: standardising is folded into it."""
    start = ["--init", str(world / f"{init}.pt")] if init != "random" else TINY_RANDOM
    start += [] if init != "random" else ["--data", str(world / "photos")]
    code = train_classifier.main(
        [*start, "--features", features, "--labels", "8", "--epochs", "3", "--batch-size", "4",
         "--amp", "off", *(["--freeze"] if freeze else []), "--run-dir", "run"])  # fmt: skip
    assert code == 0
    content = checkpoint.load("run/classifier.pt", checkpoint.CLASSIFIER)
    assert content["taps"] == {"layer3.0": 2, "layer2.0": 4}
    assert content["head"]["weight"].shape == (2, 512 + 1024 + 2048)
    encoder = Encoder()
    encoder.load_state_dict(content["encoder"])
    if freeze and init != "random":
        before = checkpoint.load(world / f"{init}.pt", checkpoint.ENCODER)["encoder"]
        assert all(torch.equal(v, content["encoder"][k]) for k, v in before.items())
    photos = open_photos(str(world / "photos"), 32)
    test = make_split(photos, 8).test
    x = extract_features(encoder, photos, test, image_size=32, mean=content["mean"],
                         std=content["std"], device=torch.device("cpu"), amp=None,
                         taps=content["taps"])  # fmt: skip
    right = (x @ content["head"]["weight"].T + content["head"]["bias"]).argmax(1)
    hits = (right == torch.from_numpy(photos.labels[test])).double().mean().item()
    assert hits == json.loads(Path("run/summary.json").read_text())["test_accuracy"]


TINY_RANDOM = ["--image-size", "32", "--store-size", "32"]


def test_evaluation_normalises_as_pretraining_did(world, monkeypatch):
    """The second system pretrained on normalised images and evaluated on others."""
    seen = []
    extract = evaluate.extract_features
    monkeypatch.setattr(
        evaluate, "extract_features",
        lambda *a, **k: seen.append((k["mean"], k["std"], k["image_size"])) or extract(*a, **k),
    )  # fmt: skip
    assert judge(world, "--frozen-only", "--labels", "8", "--seeds", "1") == 0
    assert seen == [([0.4, 0.5, 0.6], [0.3, 0.2, 0.25], 32)] * 3


def test_a_classic_run_is_not_resumed_with_other_losses(world, capsys):
    run = ["--data", str(world / "photos"), *TINY, "--run-dir", str(world / "classic"), "--resume"]
    code = train_byol.main([*run, "--losses", "multi"])
    fails(capsys, code, "losses was 'classic' and is now 'multi'")


PRETRAIN = ["--losses", "multi"]


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ([*PRETRAIN, "--taps", "layer2.5", "--tap-grid", "2"], ("layer2.5", "layer2.0")),
        ([*PRETRAIN, "--taps", "layer2.0"], ("one grid for each",)),
        ([*PRETRAIN, "--tap-grid", "2", "5"], ("tap_grid 5 of layer2.0", "4 x 4")),
        ([*PRETRAIN, "--tap-grid", "0", "4"], ("tap_grid", "at least 1")),
        ([*PRETRAIN, "--loss-weights", "1", "1"], ("--loss-weights", "layer2.0")),
        ([*PRETRAIN, "--loss-weights", "0", "0", "0"], ("--loss-weights",)),
        ([*PRETRAIN, "--loss-weights", "1", "-1", "0"], ("loss_weights", "at least 0")),
        (["--losses", "many"], ("losses", "classic", "multi")),
        (["--labels", "most"], ("--labels", "a whole number or all")),
    ],
)
def test_bad_pretraining_input(world, capsys, extra, words):
    code = train_byol.main(["--data", str(world / "photos"), *TINY, *extra])
    fails(capsys, code, *words)
    assert not Path("runs").exists()


def test_bad_classifier_input(world, capsys, tmp_path):
    data = ["--data", str(world / "photos"), "--image-size", "12", "--labels", "8"]
    code = train_classifier.main([*data, "--features", "combined"])
    fails(capsys, code, "tap_grid 2 of layer3.0", "1 x 1", "image size 12")
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, photo in enumerate(sorted(world.glob("photos/train/*/*.png"))[:6]):
        (flat / f"{number}.png").write_bytes(photo.read_bytes())
    for labels in ("all", "4"):
        code = train_classifier.main(
            ["--data", str(flat), "--image-size", "32", "--labels", labels]
        )
        fails(capsys, code, "flat", "classifier needs two or more")
    code = judge(world, "--data", str(flat))
    fails(capsys, code, "flat", "classifier needs two or more")


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--labels", "8", "8"], ("--labels 8 8", "once")),
        (["--labels", "some"], ("--labels", "some")),
        (["--labels", "8", "all", "--seeds", "1", "2", "3"], ("--seeds",)),
        (["--seeds", "0"], ("--seeds", "at least 1")),
        (["--epochs", "1.5"], ("--epochs", "1.5")),
        (["--labels", "4000"], ("--labels", "only 16")),
        (["--amp", "half"], ("--amp",)),
        (["--supervised-epochs", "-1"], ("--supervised-epochs",)),
    ],
)
def test_bad_evaluation_input(world, capsys, extra, words):
    code = judge(world, *extra)
    fails(capsys, code, *words)


def test_checkpoints_that_do_not_compare(world, capsys, tmp_path):
    content = checkpoint.load(world / "multi.pt", checkpoint.ENCODER)
    content["image_size"] = 40
    kind = content.pop("kind")
    checkpoint.save(tmp_path / "other.pt", kind, content)
    code = evaluate.main([str(world / "classic.pt"), str(tmp_path / "other.pt")])
    fails(capsys, code, "other.pt has image_size 40", "classic.pt has 32")
    code = evaluate.main([str(tmp_path / "none.pt")])
    fails(capsys, code, "there is no checkpoint")
