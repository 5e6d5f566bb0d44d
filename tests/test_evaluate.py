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
from byol.linear_eval import fit_linear, knn_accuracy
from byol.metrics import read_jsonl
from byol.probe import Standardise, extract_features
from data import make_split, open_photos

TINY = ["--image-size", "32", "--store-size", "32", "--hidden-dim", "32", "--projection-dim", "16",
        "--batch-size", "8", "--epochs", "1", "--log-every", "1", "--optimizer", "sgd",
        "--recipe", "small", "--amp", "off", "--device", "cpu", "--labels", "0",
        "--mean", "0.4", "0.5", "0.6", "--std", "0.3", "0.2", "0.25"]  # fmt: skip
FINE = ["--epochs", "2", "--batch-size", "4", "--supervised-epochs", "3", "--amp", "off",
        "--device", "cpu"]  # fmt: skip
FROZEN = ["--frozen-only", "--labels", "8", "--seeds", "1", "--device", "cpu"]


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
         "2", "--batch-size", "4", "--amp", "off", "--device", "cpu",
         "--run-dir", "alone"])  # fmt: skip
    assert code == 0
    assert json.loads(Path("alone/summary.json").read_text())["test_accuracy"] == expected


def test_fine_tuning_follows_the_file_and_flags_come_first(world):
    Path("gentle.toml").write_text(
        "[classifier]\nencoder_lr_scale = 0.25\nlr = 0.002\nepochs = 9\nwarmup_epochs = 1\n"
    )
    one = ["--labels", "8", "--seeds", "1", "--config", "gentle.toml", "--lr", "0.003"]
    assert judge(world, *one, files=("multi",)) == 0
    runs = [
        json.loads(p.read_text())["run"] for p in Path("evaluation/runs").glob("*/summary.json")
    ]
    assert len(runs) == 5
    for run in runs:
        assert (run["encoder_lr_scale"], run["lr"], run["warmup_epochs"]) == (0.25, 0.003, 1)
        assert run["epochs"] in (2, 3)  # those of FINE


@pytest.mark.parametrize("init", ["random", "classic", "multi"])
@pytest.mark.parametrize("freeze", [True, False])
def test_the_classifier_of_combined_features_repeats_its_accuracy(world, init, freeze):
    """The saved head takes raw features: standardising is folded into it."""
    start = ["--init", str(world / f"{init}.pt")] if init != "random" else TINY_RANDOM
    start += [] if init != "random" else ["--data", str(world / "photos")]
    code = train_classifier.main(
        [*start, "--features", "combined", "--labels", "8", "--epochs",
         "30" if freeze else "3", "--batch-size", "4", "--amp", "off",
         "--device", "cpu", *(["--freeze"] if freeze else []), "--run-dir", "run"])  # fmt: skip
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
    if freeze:  # unfolded, the head would be at chance on these too
        train = make_split(photos, 8).labelled
        x = extract_features(encoder, photos, train, image_size=32, mean=content["mean"],
                             std=content["std"], device=torch.device("cpu"), amp=None,
                             taps=content["taps"])  # fmt: skip
        scores = x @ content["head"]["weight"].T + content["head"]["bias"]
        assert (scores.argmax(1) == torch.from_numpy(photos.labels[train])).all()
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
CLASSIC = ["--losses", "classic"]


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ([*PRETRAIN, "--taps", "layer2.5", "--tap-grid", "2"], ("layer2.5", "layer2.0")),
        ([*PRETRAIN, "--taps", "layer2.0"], ("tap_grid 2 4", "one number for each")),
        ([*PRETRAIN, "--taps", "layer2.0", "layer2.0"], ("taps layer2.0 layer2.0", "once")),
        ([*CLASSIC, "--taps", "layer2.0", "--tap-grid", "2"], ("--taps", "--losses multi")),
        ([*CLASSIC, "--loss-weights", "1"], ("--loss-weights", "--losses multi")),
        ([*PRETRAIN, "--tap-grid", "2", "5"], ("tap_grid 5 of layer2.0", "4 x 4")),
        ([*PRETRAIN, "--tap-grid", "0", "4"], ("tap_grid", "at least 1")),
        ([*PRETRAIN, "--loss-weights", "1", "1"], ("--loss-weights", "layer2.0")),
        ([*PRETRAIN, "--loss-weights", "0", "0", "0"], ("--loss-weights",)),
        ([*PRETRAIN, "--loss-weights", "1", "-1", "0"], ("loss_weights", "at least 0")),
        ([*PRETRAIN, "--loss-weights", "1", "inf", "0"], ("loss_weights", "finite")),
        (["--losses", "many"], ("losses", "classic", "multi")),
        (["--labels", "most"], ("--labels", "a whole number or all")),
    ],
)
def test_bad_pretraining_input(world, capsys, extra, words):
    code = train_byol.main(["--data", str(world / "photos"), *TINY, *extra])
    fails(capsys, code, *words)
    assert not Path("runs").exists()


def test_no_taps_at_all(world, capsys):
    Path("none.toml").write_text("taps = []\ntap_grid = []\n")
    config = ["--config", "none.toml", "--data", str(world / "photos"), "--image-size", "32"]
    fails(capsys, train_byol.main([*config, "--losses", "multi"]), "taps", "one block or more")
    code = train_classifier.main([*config, "--labels", "8", "--features", "combined"])
    fails(capsys, code, "taps", "one block or more")
    code = train_classifier.main([*config, "--labels", "8", "--tap-grid", "2"])
    fails(capsys, code, "--tap-grid", "--features combined")
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
        (["--labels", "3"], ("--labels 3", "1 labelled", "2 are needed")),
        (["--labels", "9" * 5000], ("--labels", "whole number")),
        (["--taps", "layer2.0"], ("tap_grid 2 4", "one number for each")),
        (["--taps", "layer9.0", "--tap-grid", "1"], ("layer9.0",)),
        (["--amp", "half"], ("--amp",)),
        (["--supervised-epochs", "-1"], ("--supervised-epochs",)),
    ],
)
def test_bad_evaluation_input(world, capsys, extra, words):
    code = judge(world, *extra)
    fails(capsys, code, *words)


def changed(path, out, **values):
    """A copy of a checkpoint with other values, those of `config` by their names."""
    content = checkpoint.load(path, checkpoint.ENCODER)
    kind = content.pop("kind")
    content["config"] = {**content["config"], **values.pop("config", {})}
    checkpoint.save(out, kind, {**content, **values})
    return str(out)


def test_checkpoints_that_do_not_compare(world, capsys):
    classic, multi = (str(world / f"{name}.pt") for name in ("classic", "multi"))
    other = changed(multi, "other.pt", image_size=24)
    fails(capsys, evaluate.main([multi, other]), "other.pt has image_size 24", "multi.pt has 32")
    other = changed(classic, "other.pt", config={"holdout": 8})
    fails(capsys, evaluate.main([multi, other]), "other.pt has holdout 8")
    other = changed(multi, "other.pt", config={"tap_grid": [1, 1]})
    fails(capsys, evaluate.main([multi, other]), "other.pt has tap_grid [1, 1]")
    fails(capsys, evaluate.main([multi, multi]), "multi.pt is given twice")
    fails(capsys, evaluate.main(["none.pt"]), "there is no checkpoint none.pt")


def test_two_of_a_kind_have_rows_of_their_own(world):
    other = changed(world / "multi.pt", "other.pt", config={"seed": 1})
    first = str(world / "multi.pt")
    assert evaluate.main([first, other, *FROZEN]) == 0
    cells = json.loads(Path("evaluation/table.json").read_text())["cells"]
    assert {c["weights"] for c in cells} == {"random", first, other}
    assert all(len(c["values"]) == 1 for c in cells)


def test_a_classic_checkpoint_takes_the_taps_that_multi_was_trained_with(world, capsys):
    multi = changed(world / "multi.pt", "m.pt", config={"taps": ["layer1.0"], "tap_grid": [2]})
    assert evaluate.main([str(world / "classic.pt"), multi, *FROZEN]) == 0
    assert "combined    avgpool, layer1.0 (2 x 2)\n" in capsys.readouterr().out
    assert evaluate.main([str(world / "classic.pt"), *FROZEN, "--taps", "layer4.1", "--tap-grid",
                          "1"]) == 0  # fmt: skip
    assert "combined    avgpool, layer4.1 (1 x 1)\n" in capsys.readouterr().out


def test_other_data_keeps_the_taps_of_the_checkpoint(world, tmp_path):
    """They belong to the encoder; labels and splits belong to the data."""
    cartoon_folder(tmp_path / "other", train=12, test=4)
    init = changed(world / "multi.pt", "m.pt", config={"taps": ["layer1.0"], "tap_grid": [2]})
    assert train_classifier.main(
        ["--init", init, "--data", "other", "--features", "combined", "--labels", "8", "--freeze",
         "--epochs", "1", "--amp", "off", "--run-dir", "run"]) == 0  # fmt: skip
    assert checkpoint.load("run/classifier.pt", checkpoint.CLASSIFIER)["taps"] == {"layer1.0": 2}


def test_checkpoints_from_before_there_were_taps(world):
    content = checkpoint.load(world / "classic.pt", checkpoint.ENCODER)
    kind = content.pop("kind")
    for key in ("taps", "tap_grid", "losses", "loss_weights"):
        del content["config"][key]
    checkpoint.save("old.pt", kind, content)
    assert evaluate.main(["old.pt", *FROZEN]) == 0
    cells = json.loads(Path("evaluation/table.json").read_text())["cells"]
    assert {c["weights"] for c in cells} == {"random", "classic"}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"arch": "vgg"}, ("arch", "resnet18")),
        ({"stem": "odd"}, ("stem", "imagenet")),
        ({"image_size": "32"}, ("image_size", "whole number")),
        ({"mean": [0.5, 0.5]}, ("mean", "three numbers")),
        ({"config": {"taps": None}}, ("taps", "list of texts")),
        ({"config": {"tap_grid": [2]}}, ("tap_grid 2", "one number for each")),
        ({"config": {"tap_grid": [0, 4]}}, ("tap_grid", "at least 1")),
        ({"config": {"holdout": "x"}}, ("holdout", "whole number")),
    ],
)
def test_a_checkpoint_with_impossible_settings(world, capsys, values, words):
    path = changed(world / "multi.pt", "odd.pt", **values)
    fails(capsys, evaluate.main([path]), *words)
    code = train_classifier.main(["--init", path, "--features", "combined"])
    fails(capsys, code, *words)


@pytest.mark.parametrize("config", [None, {}, {"data": "photos", "epochs": 3}])
def test_a_checkpoint_without_its_settings(world, capsys, config):
    content = checkpoint.load(world / "multi.pt", checkpoint.ENCODER)
    kind = content.pop("kind")
    checkpoint.save("odd.pt", kind, {**content, "config": config})
    fails(capsys, evaluate.main(["odd.pt"]), "odd.pt is incomplete")
    fails(capsys, train_classifier.main(["--init", "odd.pt"]), "odd.pt is incomplete")


def test_all_labels_where_training_images_have_none(world, capsys, tmp_path):
    """Classes in the test split only."""
    cartoon_folder(tmp_path / "photos", train=0, test=8)
    for number, photo in enumerate(sorted((world / "photos" / "train").glob("*/*.png"))[:6]):
        (tmp_path / "photos" / f"{number}.png").write_bytes(photo.read_bytes())
    for freeze in ([], ["--freeze"]):
        code = train_classifier.main(
            ["--data", "photos", "--image-size", "32", "--labels", "all", *freeze])  # fmt: skip
        fails(capsys, code, "--labels all", "0 labelled training images")


def test_the_frozen_figures_are_those_of_these_weights_and_these_labels(world):
    """Each linear and kNN figure again, from the checkpoint and the split by hand."""
    assert judge(world, "--frozen-only", "--labels", "8", "--seeds", "2") == 0
    cells = json.loads(Path("evaluation/table.json").read_text())["cells"]
    photos = open_photos(str(world / "photos"), 32)
    view = {"image_size": 32, "mean": [0.4, 0.5, 0.6], "std": [0.3, 0.2, 0.25],
            "device": torch.device("cpu"), "amp": None}  # fmt: skip
    drawn = []
    for name in ("random", "classic", "multi"):
        expected = {"linear": [], "knn": []}
        for seed in range(2):
            torch.manual_seed(seed)
            encoder = Encoder()
            if name != "random":
                content = checkpoint.load(world / f"{name}.pt", checkpoint.ENCODER)
                encoder.load_state_dict(content["encoder"])
            split = make_split(photos, 8, 0, 0, seed)
            drawn.append(split.labelled.tolist())
            x, held = (extract_features(encoder, photos, r, **view)
                       for r in (split.labelled, split.test))  # fmt: skip
            y, truth = (torch.from_numpy(photos.labels[r]) for r in (split.labelled, split.test))
            standardise = Standardise(x, [512])
            head, _ = fit_linear(standardise(x), y, 2)
            hits = (head(standardise(held)).argmax(1) == truth).double().mean().item()
            expected["linear"].append(hits)
            expected["knn"].append(knn_accuracy(x, y, held, truth, 2))
        for protocol, values in expected.items():
            found = next(c["values"] for c in cells if (c["weights"], c["features"], c["protocol"])
                         == (name, "avgpool", protocol))  # fmt: skip
            assert found == pytest.approx(values), (name, protocol)
    assert drawn[0] != drawn[1]


def test_another_set_of_images_is_not_taken_for_finished(world, tmp_path):
    frozen = ["--labels", "8", "--seeds", "1", "--supervised-epochs", "0"]
    assert judge(world, *frozen, files=("multi",)) == 0
    first = {p: p.stat().st_mtime_ns for p in Path("evaluation/runs").glob("*/summary.json")}
    cartoon_folder(tmp_path / "other", train=12, test=4)
    assert judge(world, *frozen, "--data", "other", files=("multi",)) == 0
    again = {p: p.stat().st_mtime_ns for p in Path("evaluation/runs").glob("*/summary.json")}
    assert first.keys() == again.keys()
    assert all(again[path] > first[path] for path in first)
