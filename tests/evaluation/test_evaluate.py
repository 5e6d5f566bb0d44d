"""evaluate.py through its `main(argv)`: the table of eight on tiny data, and bad input.

The encoders are narrow and untrained: what is judged here is the evaluation.
"""

import contextlib
import io
import json
import shutil
from pathlib import Path

import pytest
import torch
from narrow_encoder import evaluate_fast, narrow
from photo_files import cartoon_folder
from refusals import fails

import evaluate
import train_classifier
from byol.config import ClassifierConfig
from byol.encoder import Encoder
from byol.evaluation.features import FeatureExtractor, Standardise
from byol.evaluation.linear_and_knn import fit_linear, knn_accuracy
from byol.evaluation.protocol import Protocol, Weights
from byol.report.pictures import draw_table, save_picture
from byol.report.table import Cell
from byol.run import checkpoint
from data import make_split, open_photos

FINE = ["--epochs", "2", "--batch-size", "4", "--supervised-epochs", "3", "--amp", "off",
        "--device", "cpu"]  # fmt: skip
FROZEN = ["--frozen-only", "--labels", "8", "--seeds", "1", "--device", "cpu"]
GENTLE = ["--config", "gentle.toml", "--lr", "0.003"]
EIGHT = ["--labels", "8", "all", "--seeds", "2", "1", "--batch-size", "4", "16"]


@pytest.fixture(autouse=True)
def _place(in_tmp, monkeypatch):
    """An empty folder, and narrow encoders."""
    narrow(monkeypatch)
    evaluate_fast(monkeypatch)


def judge(world, *extra, files=("classic", "multi")):
    return evaluate.main([*(str(world / f"{name}.pt") for name in files), *FINE, *extra])


@pytest.fixture(scope="module")
def judged(world, cache, tmp_path_factory):
    """A folder with a finished evaluation, and what was printed. Tests read it or copy it.

    Fine-tuning follows a file and a flag, see `test_fine_tuning_follows_the_file...`.
    """
    folder, printed = tmp_path_factory.mktemp("judged"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.chdir(folder)
        patch.setenv("BYOL_CACHE", str(cache))
        narrow(patch)
        evaluate_fast(patch)
        Path("gentle.toml").write_text(
            "[classifier]\nencoder_lr_scale = 0.25\nlr = 0.002\nepochs = 9\nwarmup_epochs = 1\n"
        )
        assert judge(world, *EIGHT, *GENTLE) == 0
    (folder / "printed").write_text(printed.getvalue())
    return folder


@pytest.fixture
def judged_here(judged) -> None:
    """A copy of that evaluation in the folder of the test."""
    shutil.copytree(judged, ".", dirs_exist_ok=True)


@pytest.fixture
def trained(monkeypatch):
    """The folders of the runs that are trained, in place of training them."""
    folders = []

    def note(config, *_, **__) -> dict:
        folders.append(Path(config.run_dir).name)
        return {"test_accuracy": 0.5, "seconds": 1}

    monkeypatch.setattr(train_classifier, "train", note)
    monkeypatch.setattr(evaluate, "judge_frozen", lambda *_: None)  # it is repeated at each call
    return folders


def cells_of(folder="evaluation") -> list[dict]:
    return json.loads((Path(folder) / "table.json").read_text())["cells"]


def test_the_table_of_eight(judged):
    content = json.loads((judged / "evaluation" / "table.json").read_text())
    cells = {
        (c["weights"], c["representation"], c["protocol"], c["labels"]): c["values"]
        for c in content["cells"]
    }
    for weights in ("classic", "multi", "random"):
        for representation in ("avgpool", "combined"):
            for protocol in ("linear", "knn", "fine-tuned"):
                assert len(cells[weights, representation, protocol, "8"]) == 2
                assert len(cells[weights, representation, protocol, "all"]) == 1
    assert len(cells["supervised, 3 epochs", "avgpool", "fine-tuned", "all"]) == 1
    assert len(cells) == 3 * 2 * 3 * 2 + 1
    assert all(0 <= value <= 1 for values in cells.values() for value in values)
    assert {c["name"] for c in content["checkpoints"]} == {"classic", "multi"}

    table = (judged / "evaluation" / "table.md").read_text()
    assert table in (judged / "printed").read_text()
    mean = 50 * sum(cells["multi", "combined", "linear", "8"])
    assert f"| multi | combined | {mean:.1f} ± " in table
    only = 100 * cells["classic", "avgpool", "fine-tuned", "all"][0]
    assert f" {only:.1f} |" in next(r for r in table.split("all labels")[1].splitlines()
                                    if r.startswith("| classic | avgpool"))  # fmt: skip
    save_picture(draw_table([Cell(**cell) for cell in content["cells"]]), Path("table.png"))
    assert Path("table.png").read_bytes().startswith(b"\x89PNG")


def test_random_weights_have_a_draw_for_each_seed_and_all_labels_have_one():
    config = ClassifierConfig()
    random, byol = Weights("random", config), Weights("multi", config, pretrained={"config": {}})
    some, every = (Protocol(labels, 3, 1, 2) for labels in ("8", "all"))
    assert [list(some.draws(random, seed)) for seed in range(4)] == [[0], [1], [2], []]
    assert (list(some.draws(byol, 0)), list(every.draws(byol, 0))) == ([0, 1, 2], [0])
    assert (some.count, every.count) == (8, None)


def test_a_second_call_repeats_the_frozen_part_alone(world, judged_here, monkeypatch):
    first = cells_of()
    summary = next(Path("evaluation/runs").glob("multi-*combined*")) / "summary.json"
    summary.unlink()  # as if this run had been cut off
    trained = []
    train = train_classifier.train
    monkeypatch.setattr(
        train_classifier, "train", lambda *a, **k: trained.append(a[0].run_dir) or train(*a, **k)
    )
    assert judge(world, *EIGHT, *GENTLE) == 0
    assert [Path(run) for run in trained] == [summary.parent]
    assert cells_of() == first


def test_fine_tuning_in_the_table_is_train_classifier(world, judged):
    expected = next(c["values"][0] for c in cells_of(judged / "evaluation")
                    if (c["weights"], c["representation"], c["protocol"], c["labels"])
                    == ("multi", "combined", "fine-tuned", "8"))  # fmt: skip
    code = train_classifier.main(
        ["--init", str(world / "multi.pt"), "--representation", "combined", "--labels", "8",
         "--epochs", "2", "--batch-size", "4", "--amp", "off", "--device", "cpu",
         "--lr", "0.003", "--encoder-lr-scale", "0.25", "--warmup-epochs", "1", "--folds", "0",
         "--run-dir", "alone"])  # fmt: skip
    assert code == 0
    alone = json.loads(Path("alone/summary.json").read_text())
    assert alone["test_accuracy"] == expected
    (run,) = (judged / "evaluation" / "runs").glob("multi-*-combined-8-2epochs-seed0")
    assert json.loads((run / "summary.json").read_text())["curve"] == alone["curve"]


def test_fine_tuning_follows_the_file_and_flags_come_first(judged):
    runs = [
        json.loads(p.read_text())["run"]
        for p in (judged / "evaluation" / "runs").glob("*/summary.json")
    ]
    assert len(runs) == 19
    for run in runs:
        assert (run["encoder_lr_scale"], run["lr"], run["warmup_epochs"]) == (0.25, 0.003, 1)
        assert run["epochs"] in (2, 3)  # those of FINE


@pytest.mark.parametrize("change", ["nothing", "weights", "lr", "damage", "images"])
def test_nothing_stale_is_taken_for_this_run(world, judged_here, trained, tmp_path, change):
    """Another checkpoint under the same name, other settings, a damaged result, other images."""
    extra, kinds = [], {"classic": 6, "multi": 6, "random": 7}
    expected = {"lr": kinds, "damage": kinds, "images": kinds, "nothing": {}}.get(change)
    if change == "weights":
        for name in ("classic", "multi"):
            shutil.copy(world / f"{name}.pt", tmp_path)
        changed(world / "multi.pt", "multi.pt", encoder=random_weights())
        world, expected = tmp_path, {"multi": 6}
    if change == "lr":
        extra = ["--lr", "0.004"]
    if change == "damage":
        for summary in Path("evaluation/runs").glob("*/summary.json"):
            summary.write_text('{"test_accuracy": 0.5, "seconds": 1}')
    if change == "images":
        cartoon_folder(tmp_path / "other", train=32, test=4)
        extra = ["--data", "other"]
    assert judge(world, *EIGHT, *GENTLE, *extra) == 0
    assert {kind: sum(name.startswith(kind) for name in trained) for kind in expected} == expected
    assert len(trained) == sum(expected.values())


def random_weights() -> dict:
    torch.manual_seed(99)
    return checkpoint.encoder_weights(Encoder())


@pytest.mark.parametrize("init", ["random", "classic", "multi"])
@pytest.mark.parametrize("freeze", [True, False])
def test_the_classifier_of_combined_features_repeats_its_accuracy(world, init, freeze):
    """The saved head takes raw features: standardising is folded into it."""
    start = ["--init", str(world / f"{init}.pt")] if init != "random" else TINY_RANDOM
    start += [] if init != "random" else ["--data", str(world / "photos")]
    code = train_classifier.main(
        [*start, "--representation", "combined", "--labels", "8", "--epochs",
         "30" if freeze else "3", "--batch-size", "4", "--amp", "off", "--folds", "0",
         "--device", "cpu", *(["--freeze"] if freeze else []), "--run-dir", "run"])  # fmt: skip
    assert code == 0
    content = checkpoint.load("run/classifier.pt", checkpoint.CLASSIFIER)
    assert content["inner_blocks"] == {"layer3.0": 2, "layer2.0": 4}
    assert content["head"]["weight"].shape == (2, 64 + 128 + 256)
    encoder = Encoder()
    encoder.load_state_dict(content["encoder"])
    if freeze and init != "random":
        before = checkpoint.load(world / f"{init}.pt", checkpoint.ENCODER)["encoder"]
        assert all(torch.equal(v, content["encoder"][k]) for k, v in before.items())
    photos = open_photos(str(world / "photos"), 32)
    test = make_split(photos, 8).test
    extract = FeatureExtractor(image_size=32, mean=content["mean"], std=content["std"],
                               device=torch.device("cpu"), amp=None,
                               inner_blocks=content["inner_blocks"])  # fmt: skip
    x = extract(encoder, photos, test)
    right = (x @ content["head"]["weight"].T + content["head"]["bias"]).argmax(1)
    hits = (right == torch.from_numpy(photos.labels[test])).double().mean().item()
    if freeze:  # unfolded, the head would be at chance on these too
        train = make_split(photos, 8).labelled
        x = extract(encoder, photos, train)
        scores = x @ content["head"]["weight"].T + content["head"]["bias"]
        assert (scores.argmax(1) == torch.from_numpy(photos.labels[train])).all()
    assert hits == json.loads(Path("run/summary.json").read_text())["test_accuracy"]


TINY_RANDOM = ["--image-size", "32", "--store-size", "32"]


def test_evaluation_normalises_as_pretraining_did(world, monkeypatch):
    """The second system pretrained on normalised images and evaluated on others."""
    seen = []

    class Seen(FeatureExtractor):
        def __call__(self, *args, **options):
            seen.append((self.mean, self.std, self.image_size))
            return super().__call__(*args, **options)

    monkeypatch.setattr("byol.evaluation.protocol.FeatureExtractor", Seen)
    assert judge(world, "--frozen-only", "--labels", "8", "--seeds", "1") == 0
    assert seen == [([0.4, 0.5, 0.6], [0.3, 0.2, 0.25], 32)] * 3


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
        (["--inner-blocks", "layer2.0"], ("inner_grids 2 4", "one number for each")),
        (["--inner-blocks", "layer9.0", "--inner-grids", "1"], ("layer9.0",)),
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
    other = changed(multi, "other.pt", config={"inner_grids": [1, 1]})
    fails(capsys, evaluate.main([multi, other]), "other.pt has inner_grids [1, 1]")
    fails(capsys, evaluate.main([multi, multi]), "multi.pt is given twice")
    fails(capsys, evaluate.main(["none.pt"]), "there is no checkpoint none.pt")


def test_two_of_a_kind_have_rows_of_their_own(world, monkeypatch):
    monkeypatch.setattr("byol.report.table_files.draw_table", draw_table)
    monkeypatch.setattr("byol.report.table_files.save_picture", save_picture)
    other = changed(world / "multi.pt", "other.pt", config={"seed": 5})
    first = str(world / "multi.pt")
    assert evaluate.main([first, other, *FROZEN]) == 0
    cells = json.loads(Path("evaluation/table.json").read_text())["cells"]
    assert {c["weights"] for c in cells} == {"random", first, other}
    assert all(len(c["values"]) == 1 for c in cells)
    assert Path("evaluation/table.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in Path("evaluation").iterdir()} == {
        "table.md", "table.json", "table.png", "run.lock",
    }  # fmt: skip


def test_given_weights_have_rows_beside_ours(world, trained):
    """`--init`: as they are in the file, seen as the checkpoint sees photos."""
    torch.manual_seed(7)
    weights = Encoder().state_dict()
    torch.save({"state_dict": {f"module.{key}": v for key, v in weights.items()}}, "given.pth")
    classic = str(world / "classic.pt")
    code = evaluate.main([classic, *FINE, "--init", "given.pth", "--labels", "8", "--seeds", "1"])
    assert code == 0
    cells = json.loads(Path("evaluation/table.json").read_text())["cells"]
    assert {c["weights"] for c in cells} >= {"classic", "given.pth", "random"}
    digest = checkpoint.fingerprint_of(weights)
    assert f"given-{digest[:12]}-avgpool-8-2epochs-seed0" in trained


def test_given_weights_are_judged_by_their_own_features(world):
    """The weights of a checkpoint, as a file of another origin, give the checkpoint's accuracy."""
    content = checkpoint.load(world / "classic.pt", checkpoint.ENCODER)
    torch.save(content["encoder"], "given.pth")
    assert evaluate.main([str(world / "classic.pt"), "--init", "given.pth", *FROZEN]) == 0
    values = {(c["weights"], c["representation"], c["protocol"]): c["values"] for c in cells_of()}
    for representation in ("avgpool", "combined"):
        for protocol in ("linear", "knn"):
            ours, theirs = (
                values[name, representation, protocol] for name in ("classic", "given.pth")
            )
            assert ours == theirs


def test_given_weights_that_cannot_be_judged(world, capsys):
    multi = str(world / "multi.pt")
    fails(capsys, evaluate.main([multi, "--init", multi]), "stand without --init")
    fails(capsys, evaluate.main([multi, "--init", "random"]), "always judged")
    torch.save(Encoder("resnet34").state_dict(), "other.pth")
    fails(capsys, evaluate.main([multi, "--init", "other.pth"]), "other.pth is a resnet34")
    torch.save(Encoder().state_dict(), "a.pth")
    shutil.copy("a.pth", "b.pth")
    fails(capsys, evaluate.main([multi, "--init", "a.pth", "b.pth"]), "b.pth is given twice")


def test_a_classic_checkpoint_takes_the_blocks_that_multi_was_trained_with(world, capsys):
    multi = changed(
        world / "multi.pt", "m.pt", config={"inner_blocks": ["layer1.0"], "inner_grids": [2]}
    )
    assert evaluate.main([str(world / "classic.pt"), multi, *FROZEN]) == 0
    assert "combined    avgpool, layer1.0 (2 x 2)\n" in capsys.readouterr().err
    blocks = ["--inner-blocks", "layer4.1", "--inner-grids", "1"]
    assert evaluate.main([str(world / "classic.pt"), *FROZEN, *blocks]) == 0
    assert "combined    avgpool, layer4.1 (1 x 1)\n" in capsys.readouterr().err


def test_other_data_keeps_the_blocks_of_the_checkpoint(world, tmp_path):
    """They belong to the encoder; labels and splits belong to the data."""
    cartoon_folder(tmp_path / "other", train=12, test=4)
    init = changed(
        world / "multi.pt", "m.pt", config={"inner_blocks": ["layer1.0"], "inner_grids": [2]}
    )
    assert train_classifier.main(
        ["--init", init, "--data", "other", "--representation", "combined", "--labels", "8",
         "--freeze", "--epochs", "1", "--amp", "off", "--run-dir", "run"]) == 0  # fmt: skip
    assert checkpoint.load("run/classifier.pt", checkpoint.CLASSIFIER)["inner_blocks"] == {
        "layer1.0": 2
    }


def test_checkpoints_from_before_there_were_inner_blocks(world):
    content = checkpoint.load(world / "classic.pt", checkpoint.ENCODER)
    kind = content.pop("kind")
    for key in ("inner_blocks", "inner_grids", "losses", "loss_weights"):
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
        ({"config": {"inner_blocks": None}}, ("inner_blocks", "list of texts")),
        ({"config": {"inner_grids": [2]}}, ("inner_grids 2", "one number for each")),
        ({"config": {"inner_grids": [0, 4]}}, ("inner_grids", "at least 1")),
        ({"config": {"holdout": "x"}}, ("holdout", "whole number")),
    ],
)
def test_a_checkpoint_with_impossible_settings(world, capsys, values, words):
    path = changed(world / "multi.pt", "odd.pt", **values)
    fails(capsys, evaluate.main([path]), *words)
    code = train_classifier.main(["--init", path, "--representation", "combined"])
    fails(capsys, code, *words)


@pytest.mark.parametrize("config", [None, {}, {"data": "photos", "epochs": 3}])
def test_a_checkpoint_without_its_settings(world, capsys, config):
    content = checkpoint.load(world / "multi.pt", checkpoint.ENCODER)
    kind = content.pop("kind")
    checkpoint.save("odd.pt", kind, {**content, "config": config})
    fails(capsys, evaluate.main(["odd.pt"]), "odd.pt is incomplete")
    fails(capsys, train_classifier.main(["--init", "odd.pt"]), "odd.pt is incomplete")


def test_photos_without_classes_are_refused(world, capsys, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, photo in enumerate(sorted(world.glob("photos/train/*/*.png"))[:6]):
        (flat / f"{number}.png").write_bytes(photo.read_bytes())
    code = judge(world, "--data", str(flat))
    fails(capsys, code, "flat", "classifier needs two or more")


def test_all_labels_where_training_images_have_none(world, capsys, tmp_path):
    """Classes in the test split only."""
    cartoon_folder(tmp_path / "photos", train=0, test=8)
    for number, photo in enumerate(sorted((world / "photos" / "train").glob("*/*.png"))[:6]):
        (tmp_path / "photos" / f"{number}.png").write_bytes(photo.read_bytes())
    for freeze in ([], ["--freeze"]):
        code = train_classifier.main(
            ["--data", "photos", "--image-size", "32", "--labels", "all", *freeze])  # fmt: skip
        said = capsys.readouterr().err
        assert code == 2
        assert "of cat and dog there are photos for the test alone, which nothing" in said
        assert "error: --data photos has 0 class folders" in said


def test_the_frozen_figures_are_those_of_these_weights_and_these_labels(world):
    """Each linear and kNN figure again, from the checkpoint and the split by hand."""
    assert judge(world, "--frozen-only", "--labels", "8", "--seeds", "2") == 0
    cells = json.loads(Path("evaluation/table.json").read_text())["cells"]
    photos = open_photos(str(world / "photos"), 32)
    extract = FeatureExtractor(image_size=32, mean=[0.4, 0.5, 0.6], std=[0.3, 0.2, 0.25],
                               device=torch.device("cpu"), amp=None)  # fmt: skip
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
            x, held = (extract(encoder, photos, r)
                       for r in (split.labelled, split.test))  # fmt: skip
            y, truth = (torch.from_numpy(photos.labels[r]) for r in (split.labelled, split.test))
            standardise = Standardise(x, [64])
            head, _ = fit_linear(standardise(x), y, 2)
            hits = (head(standardise(held)).argmax(1) == truth).double().mean().item()
            expected["linear"].append(hits)
            expected["knn"].append(knn_accuracy(x, y, held, truth, 2))
        for protocol, values in expected.items():
            place = name, "avgpool", protocol
            found = [c["values"] for c in cells
                     if (c["weights"], c["representation"], c["protocol"]) == place]  # fmt: skip
            assert found == [pytest.approx(values)], place
    assert drawn[0] != drawn[1]


def test_of_uneven_classes_the_table_has_the_balanced_accuracy(world, tmp_path):
    """It is the mean recall: here of eight test images of one class and two of the other."""
    folder = cartoon_folder(tmp_path / "uneven", train=24, test=10)
    kinds = sorted(path.name for path in (folder / "test").iterdir())
    for extra in sorted((folder / "test" / kinds[1]).glob("*.png"))[2:]:
        extra.rename(folder / "test" / kinds[0] / f"more{extra.name}")
    counts = [len(list((folder / "test" / kind).glob("*.png"))) for kind in kinds]
    assert min(counts) == 2
    assert judge(world, *FROZEN, "--data", str(folder), files=("classic",)) == 0
    for cell in cells_of():
        (value,), (balanced,) = cell["values"], cell["balanced"]
        hits = [
            (a, b)
            for a in range(counts[0] + 1)
            for b in range(counts[1] + 1)
            if (a + b) / sum(counts) == pytest.approx(value)
        ]
        assert any((a / counts[0] + b / counts[1]) / 2 == pytest.approx(balanced) for a, b in hits)
        (recall,) = cell["recall"]
        assert sum(recall.values()) / 2 == pytest.approx(balanced)
    text = Path("evaluation/table.md").read_text()
    assert "; balanced " in text
    assert "tested on 10 images (test split, 80.0 % of the largest class)" in text


def test_a_test_without_a_class_is_warned_of(world, tmp_path, capsys):
    folder = cartoon_folder(tmp_path / "none", train=24, test=10)
    kind = min(path.name for path in (folder / "test").iterdir())
    shutil.rmtree(folder / "test" / kind)
    capsys.readouterr()
    assert judge(world, *FROZEN, "--data", str(folder), files=("classic",)) == 0
    assert f"warning: no test image of {kind}" in capsys.readouterr().err


def test_labels_may_come_from_the_names_and_groups_leave_the_test(world, tmp_path, capsys):
    folder = tmp_path / "flat"
    folder.mkdir()
    for path in (world / "photos").rglob("*.png"):
        shutil.copy(path, folder / f"{path.parent.name}.{path.name}")
    flags = ["--data", str(folder), "--label-pattern", r"^(\w+)\.", "--group-by", r"(\d)\.png"]
    assert judge(world, *FROZEN, *flags, files=("classic",)) == 0
    said = capsys.readouterr()
    assert "--label-pattern ^(\\w+)\\.: 44 photos have a label" in said.err
    tested = int(said.out.split("tested on ")[1].split()[0])
    assert 0 < tested < 36
