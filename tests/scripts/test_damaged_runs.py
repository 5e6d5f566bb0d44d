"""Damaged, hostile and foreign files before plot_losses.py, train_classifier.py, evaluate.py."""

import copy
import json
import pickle
from pathlib import Path

import pytest
import torch
from narrow_encoder import narrow
from refusals import fails

import evaluate
import plot_losses
import train_byol
import train_classifier
from byol.encoder import Encoder
from byol.report.runs import read_runs
from byol.run import checkpoint

SUMMARY = {"init": "random", "init_file": "random", "freeze": True, "representation": "avgpool",
           "seed": 0, "data": "photos", "image_size": 32, "labels": 8, "classes": ["a", "b"],
           "epochs": 2, "train_loss": 0.5, "test_accuracy": 0.5, "test_images": 12,
           "tested_on": "test split",
           "curve": [{"epoch": 1, "loss": 0.7}, {"epoch": 2, "loss": 0.5}]}  # fmt: skip
ROW = {"step": 1, "epoch": 0.5, "loss": 4.0, "lr": 0.1, "tau": 0.99, "spread": 0.8}


@pytest.fixture(autouse=True)
def _narrow(monkeypatch):
    """Encoders are narrow: `encoder_content` and the scripts agree on it."""
    narrow(monkeypatch)


def write_run(name, summary=None, rows=None):
    folder = Path("runs") / name
    folder.mkdir(parents=True)
    if summary is not None:
        text = summary if isinstance(summary, str) else json.dumps(summary)
        (folder / "summary.json").write_text(text)
    if rows is not None:
        text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "metrics.jsonl").write_bytes(text.encode("utf-8", "surrogateescape"))
    return folder


def changed(**values):
    return {**copy.deepcopy(SUMMARY), **values}


NAN_CURVE = [{"epoch": 1, "loss": float("nan")}, {"epoch": 2, "loss": 0.5}]
DAMAGED = {
    "cut": json.dumps(SUMMARY)[:-9],
    "empty": "",
    "a list": "[]",
    "nested": "[" * 100_000,
    "digits": '{"epochs": ' + "9" * 5000 + "}",
    "accuracy nan": changed(test_accuracy=float("nan")),
    "accuracy 50": changed(test_accuracy=50),
    "accuracy text": changed(test_accuracy="0.5"),
    "init empty": changed(init=""),
    "init list": changed(init=[]),
    "freeze text": changed(freeze="no"),
    "no classes": changed(classes=[]),
    "data number": changed(data=3),
    "curve nan": changed(curve=NAN_CURVE),
    "curve huge": changed(curve=[{"epoch": 1, "loss": 1e300}, {"epoch": 2, "loss": 1}]),
    "curve text": changed(curve=[{"epoch": 1, "loss": "1"}, {"epoch": 2, "loss": 1}]),
    "curve short": changed(curve=SUMMARY["curve"][:1]),
    "curve null": changed(curve=[None, None]),
    "curve number": changed(curve=3),
    "lacks seed": {k: v for k, v in SUMMARY.items() if k != "seed"},
}
DAMAGED_ROWS = {
    "another program": [{"iter": 1, "train": 3}],
    "not utf-8": "\udcff\udcfe\n",
    "nan": [ROW, {**ROW, "loss": float("nan")}],
    "infinite": [ROW, {**ROW, "lr": float("inf")}],
    "huge": [ROW, {**ROW, "tau": 10**400}],
    "text": [{**ROW, "spread": "0.8"}],
    "null": "null\n",
    "a column less": [ROW, {k: v for k, v in ROW.items() if k != "tau"}],
    "cut inside": json.dumps(ROW) + '\n{"step": 2, "epo\n' + json.dumps(ROW) + "\n",
    "nested": "[" * 100_000 + "\n",
    "digits": '{"step": ' + "9" * 5000 + "}\n",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_classifier_run_is_left_out(capsys, name):
    write_run("bad", DAMAGED[name])
    fails(capsys, plot_losses.main([]), "no finished run")
    write_run("good", SUMMARY)
    assert [run["name"] for run in read_runs(Path("runs"))[0]] == ["good"]
    assert capsys.readouterr().err == "left out, damaged, or of another program: bad\n"


@pytest.mark.parametrize("name", DAMAGED_ROWS)
def test_a_damaged_pretraining_run_is_left_out(capsys, name):
    write_run("bad", rows=DAMAGED_ROWS[name])
    fails(capsys, plot_losses.main([]), "no finished run")
    write_run("good", rows=[ROW])
    assert read_runs(Path("runs"))[1].keys() == {"good"}
    assert capsys.readouterr().err == "left out, damaged, or of another program: bad\n"


def test_rows_of_another_run_beside_a_summary_of_an_earlier_version(capsys):
    old = {key: value for key, value in SUMMARY.items() if key != "curve"}
    write_run("good", old, SUMMARY["curve"])
    write_run("mixed", old, [{"epoch": 1, "loss": 0.7}, {"epoch": 2, "loss": 0.4}])
    write_run("cut", old, SUMMARY["curve"][:1])
    assert [run["name"] for run in read_runs(Path("runs"))[0]] == ["good"]
    assert capsys.readouterr().err.endswith(": cut, mixed\n")


def test_a_run_in_progress_is_drawn_until_its_last_whole_line():
    write_run("byol", rows=json.dumps(ROW) + '\n{"step": 2, "ep')
    write_run("begun", rows="")
    assert read_runs(Path("runs"))[1] == {"byol": [ROW]}


# ---- checkpoints ----


def encoder_content():
    config = {"data": "photos", "store_size": 32, "labels": 8, "holdout": 0, "split_seed": 0,
              "epochs": 3}  # fmt: skip
    return {"encoder": checkpoint.encoder_weights(Encoder()), "arch": "resnet18",
            "stem": "imagenet", "image_size": 32, "data_fingerprint": "0", "mean": [0.5] * 3,
            "std": [0.2] * 3, "config": config}  # fmt: skip


def with_weight(value):
    return lambda content: content["encoder"].update({"conv1.weight": value(content)})


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (with_weight(lambda c: torch.zeros(64, 3, 3, 3)), ("does not load",)),
        (with_weight(lambda c: "text"), ("does not load",)),
        (with_weight(lambda c: c["encoder"]["conv1.weight"] * float("nan")), ("not finite",)),
        (with_weight(lambda c: c["encoder"]["conv1.weight"] + float("inf")), ("not finite",)),
        (lambda c: c["encoder"].pop("bn1.bias"), ("does not load",)),
        (lambda c: c["encoder"].update(more=torch.zeros(1)), ("does not load",)),
        (lambda c: c.update(encoder=[1, 2]), ("does not load",)),
        (lambda c: c.update(arch="resnet34"), ("does not load",)),
        (lambda c: c.update(arch="resnet19"), ("arch", "resnet18")),
        (lambda c: c.update(arch=["resnet18"]), ("arch", "a text")),
        (lambda c: c.update(image_size=10**400), ("image_size", "at most")),
        (lambda c: c["config"].update(holdout=-1), ("holdout", "at least 0")),
        (lambda c: c["config"].update(data=None), ("data", "a text")),
    ],
)
def test_a_damaged_encoder_is_one_sentence(photos, tmp_path, capsys, damage, words):
    Path("photos").symlink_to(photos)
    content = encoder_content()
    damage(content)
    checkpoint.save("byol.pt", checkpoint.ENCODER, content)
    fails(capsys, train_classifier.main(["--init", "byol.pt", "--freeze"]), "byol.pt", *words)
    fails(capsys, evaluate.main(["byol.pt"]), "byol.pt", *words)
    assert not list(tmp_path.rglob("summary.json"))


@pytest.mark.parametrize("epochs", ["many", -1, 1.5, None])
def test_impossible_epochs_of_pretraining(capsys, epochs):
    content = encoder_content()
    content["config"]["epochs"] = epochs
    checkpoint.save("byol.pt", checkpoint.ENCODER, content)
    fails(capsys, evaluate.main(["byol.pt"]), "epochs in byol.pt", "whole number")


def test_a_classifier_is_no_encoder(capsys):
    content = {"encoder": {}, "head": {}, "classes": ["a", "b"]}
    checkpoint.save("c.pt", checkpoint.CLASSIFIER, content)
    for code in (train_classifier.main(["--init", "c.pt"]), evaluate.main(["c.pt"])):
        assert code == 2
    assert capsys.readouterr().err.count("c.pt is a classifier that train_classifier.py wrote") == 2


# ---- what is not finite ----


@pytest.mark.parametrize("freeze", [True, False])
def test_a_loss_that_is_not_finite_is_one_sentence(photos, capsys, freeze):
    flag = "--frozen-lr" if freeze else "--lr"
    flags = ["--data", str(photos), "--image-size", "32", "--labels", "8", "--amp", "off"]
    flags += ["--device", "cpu", "--epochs", "3", "--batch-size", "4", "--optimizer", "sgd"]
    flags += [flag, "1e38", "--run-dir", "run", *(["--freeze"] if freeze else [])]
    code = train_classifier.main(flags)
    fails(capsys, code, "in the cross-validation", "not finite", f"lower {flag}")
    code = train_classifier.main([*flags, "--folds", "0"])
    fails(capsys, code, "not finite at step ", "the rate was", f"lower {flag}")
    assert not Path("run/summary.json").exists()
    assert not Path("run/classifier.pt").exists()


def test_features_that_are_not_finite_are_one_sentence(photos, tmp_path, capsys, monkeypatch):
    """Finite weights whose sums are not."""
    Path("photos").symlink_to(photos)
    content = encoder_content()
    content["encoder"]["bn1.weight"].fill_(3e38)
    checkpoint.save("byol.pt", checkpoint.ENCODER, content)
    code = train_classifier.main(
        ["--init", "byol.pt", "--freeze", "--amp", "off", "--device", "cpu"]
    )
    fails(capsys, code, "features that are not finite")
    monkeypatch.setattr(evaluate, "judge_frozen", lambda *_: None)  # random weights come first
    monkeypatch.setattr(evaluate.table_files, "write", lambda *_: None)
    fails(
        capsys,
        evaluate.main(["byol.pt", "--labels", "8", "--amp", "off", "--device", "cpu"]),
        "not finite",
    )
    assert not list(tmp_path.rglob("summary.json"))
    assert not list(tmp_path.rglob("table.*"))


# ---- settings ----


class Evil:
    def __reduce__(self):
        return (open, ("marker", "w"))


RUNS = "open('marker', 'w')"
CONFIGS = {
    "c.py": f"{RUNS}\nepochs = 3\n",
    "text.toml": f"epochs = {RUNS}\n",
    "import.toml": "__import__('os').system('touch marker')\n",
    "string.toml": f'[pretrain]\nepochs = "{RUNS}"\n[classifier]\nepochs = "{RUNS}"\n',
    "data.toml": f'data = "{RUNS}"\n',
    "unknown.toml": f'config = "{RUNS}"\n',
    "c.pkl": pickle.dumps(Evil()),
    "old.pkl": pickle.dumps(Evil(), protocol=0),
    "folder": None,
    "nested.toml": "a = " + "[" * 100_000,
    "digits.toml": "image_size = " + "9" * 5000,
    "large.toml": f"[pretrain]\ntau0 = {10**400}\n[classifier]\nlr = {10**400}\n",
    "many.toml": f"[pretrain]\nepochs = {10**400}\n[classifier]\nepochs = {10**400}\n",
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("script", [train_byol, train_classifier])
def test_a_config_file_is_toml_and_runs_nothing(capsys, script, name):
    content = CONFIGS[name]
    if content is None:
        Path(name).mkdir()
    else:
        Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    fails(capsys, script.main(["--config", name]))
    assert not Path("marker").exists()
    assert not Path("runs/byol/last.pt").exists()
