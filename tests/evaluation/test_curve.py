"""evaluate.py --curve: what labels are worth, the test, going on, and bad input."""

import itertools
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from narrow_encoder import evaluate_fast, narrow, write_encoder
from photo_files import cartoon_folder
from refusals import fails

import evaluate
import train_classifier
from byol.encoder import Encoder
from byol.errors import UserError
from byol.evaluation import curve
from byol.evaluation.features import FeatureExtractor, Standardise
from byol.evaluation.linear_and_knn import fit_linear
from byol.evaluation.protocol import read_protocols
from byol.evaluation.worth import judge_worth, two_digits, worth
from byol.progress import about_time
from byol.report import label_curve
from byol.report.parts import left_by_evaluate
from byol.report.pictures import plt, save_picture
from byol.run import checkpoint
from byol.run.start import imagenet_file
from data import make_split, open_photos

# ---- what labels are worth, by closed forms


@pytest.mark.parametrize(
    ("accuracy", "points", "expected"),
    [
        (0.6, [(10, 0.5), (1000, 0.7)], ("about", 100)),  # half way in the logarithm
        (0.65, [(10, 0.5), (1000, 0.7)], ("about", 10 * 100**0.75)),
        (0.7, [(10, 0.5), (1000, 0.7)], ("about", 1000)),
        (0.5, [(10, 0.5), (1000, 0.7)], ("about", 10)),
        (0.71, [(10, 0.5), (1000, 0.7)], ("more", 1000)),
        (0.49, [(10, 0.5), (1000, 0.7)], ("fewer", 10)),
        (0.6, [(50, 0.55)], ("more", 50)),
        # more labels gave less: nobody has to use all of them
        (0.58, [(10, 0.5), (40, 0.6), (160, 0.55)], ("about", 10 * 4**0.8)),
        (0.65, [(10, 0.6), (40, 0.5), (160, 0.7)], ("about", 80)),
        (0.6, [(10, 0.5), (20, 0.6), (40, 0.6)], ("about", 20)),
    ],
)
def test_labels_are_worth_what_the_curve_says_between_two_counts(accuracy, points, expected):
    kind, count = worth(accuracy, points)
    assert (kind, count) == (expected[0], pytest.approx(expected[1]))


def line(start, frozen, *means, std=0.001, counts=(10, 100, 1000)):
    points = zip(counts, means, strict=False)
    return {"name": start, "start": start, "frozen": frozen,
            "points": [{"labels": n, "mean": m, "std": std} for n, m in points]}  # fmt: skip


RANDOM, SCRATCH = line("random", True, 0.5, 0.6, 0.65), line("random", False, 0.4, 0.55, 0.85)


@pytest.mark.parametrize(
    ("byol", "count", "curves", "words"),
    [
        ((0.6, 0.725, 0.9), 100, [RANDOM, SCRATCH], "worth as much as about 320 labels without"),
        ((0.6, 0.8, 0.9), 100, [RANDOM], "worth more than 1,000 labels on random features"),
        ((0.6, 0.8, 0.9), 100, [RANDOM], "Training from scratch was not run."),
        ((0.6, 0.8, 0.9), 1000, [RANDOM, SCRATCH], "worth more than 1,000 labels without pretra"),
        ((0.6, 0.58, 0.9), 100, [RANDOM, SCRATCH], "not worth more: about 63 labels without"),
        ((0.4, 0.6, 0.9), 10, [RANDOM, SCRATCH], "not worth more: 10 labels without pretraining"),
    ],
)
def test_the_sentence_is_honest_at_its_ends(byol, count, curves, words):
    verdict = judge_worth([line("byol", True, *byol), *curves], count)
    assert verdict["sentence"].startswith(f"With {count:,} labels, BYOL's features are")
    assert words in verdict["sentence"]
    assert "spread" not in verdict["sentence"]


def test_training_from_scratch_counts_once_all_counts_are_done():
    part = {**SCRATCH, "points": SCRATCH["points"][:1]}
    byol = line("byol", True, 0.55, 0.7, 0.9)
    said = judge_worth([byol, RANDOM, part], 100)["sentence"]
    without = judge_worth([byol, RANDOM], 100)["sentence"]
    assert said == without.replace("was not run.", "was not run with all counts.")
    assert "on random features" in said
    assert "without pretraining" in judge_worth([byol, RANDOM, SCRATCH], 100)["sentence"]


def test_as_many_labels_are_not_more():
    """100.2 of 100 labels would read as "worth as much as about 100"."""
    same = [line("random", True, 0.5, 0.6, 0.7), line("byol", True, 0.5, 0.6001, 0.9)]
    assert "not worth more: about 100 labels" in judge_worth(same, 100)["sentence"]


def test_without_pretraining_the_better_of_two_counts():
    verdict = judge_worth([line("byol", True, 0.6, 0.7, 0.9), RANDOM, SCRATCH], 100)
    assert verdict["without"] == [(10, 0.5), (100, 0.6), (1000, 0.85)]
    assert verdict["equal_labels"] == pytest.approx(100 * 10**0.4)  # 0.1 of 0.25


def test_a_gain_within_the_spread_is_told():
    curves = line("byol", True, 0.6, 0.605, 0.9), line("random", True, 0.5, 0.6, 0.7, std=0.02)
    assert judge_worth(list(curves), 100)["sentence"].count("within the spread of the draws") == 1


def test_counts_are_written_with_two_digits():
    assert [two_digits(n) for n in (9.6, 14.4, 347, 1260, 18490)] == [
        "10", "14", "350", "1,300", "18,000"
    ]  # fmt: skip


def test_ticks_do_not_run_into_each_other():
    assert label_curve.tick_labels([10, 100, 1000]) == ["10", "100", "1,000"]
    assert label_curve.tick_labels([10, 100, 960, 1000]) == ["10", "100", "", "1,000"]
    assert label_curve.tick_labels([7]) == ["7"]


# ---- label counts and the length of training


@pytest.mark.parametrize(
    ("count", "epochs"), [(10, 500), (25, 500), (100, 250), (250, 100), (1000, 25), (20_000, 20)]
)
def test_each_count_gets_as_many_steps_and_at_least_some_epochs(count, epochs):
    assert curve.epochs_by_rule(count, 50) == epochs
    assert epochs == 20 or epochs * (count // min(50, count)) == 500


def fit(counts, available):
    protocols = read_protocols(counts, ["3"], ["1"], ["2"], "--curve")
    labels = np.repeat([0, 1], available)
    photos = SimpleNamespace(labels=labels, classes=["cat", "d\nog"])
    kept, left_out = curve.keep_fitting(protocols, photos, np.arange(len(labels)))
    return [p.labels for p in kept], left_out


def test_counts_without_enough_labels_are_left_out_and_named():
    kept, left_out = fit(["all", "2", "3", "40", "4", "41", "60", "70", "71"], [50, 20])
    assert kept == ["4", "40", "41", "all"]  # in order; of 41 the first class has 21
    assert left_out["2"] == left_out["3"] == "the 2 classes need two each"
    assert left_out["60"] == "class d\\nog has 20 to learn from, and needs 30"
    assert left_out["70"] == left_out["71"] == "there are 70 to learn from"
    assert fit(["4", "41"], [20, 21]) == (
        ["4"],
        {"41": "class cat has 20 to learn from, and needs 21"},
    )
    assert fit(["4", "40"], [20, 20]) == (["4", "40"], {})  # all of them, by their number


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(59, "less than a minute"), (61, "about a minute"), (7000, "about 117 minutes"),
     (10_800, "about 3.0 hours")],
)  # fmt: skip
def test_the_forecast_is_rough(seconds, told):
    assert about_time(seconds) == told


def test_without_a_count_that_fits_there_is_an_error():
    with pytest.raises(UserError, match=r"no label count .* \(100: there are 6 to learn from\)"):
        fit(["100"], [3, 3])


# ---- the test, the same for all


@pytest.fixture(scope="module")
def untested(tmp_path_factory) -> Path:
    """A folder of 40 drawings in two classes, without a test split."""
    return cartoon_folder(tmp_path_factory.mktemp("untested"), train=40, test=0) / "train"


@pytest.fixture
def opened(in_tmp, untested):
    return lambda **settings: open_photos(str(untested), 32, progress=False, **settings)


def test_a_fifth_is_set_apart_and_no_draw_takes_from_it(opened):
    photos = opened()
    apart, test, _ = curve.set_test_apart(photos, make_split(photos, None))
    counts = np.bincount(photos.labels) / np.bincount(photos.labels[test])
    assert len(test) == 8
    assert counts == pytest.approx(5, abs=1.1)
    for labels, seed in itertools.product((4, 16, None), range(5)):
        split = make_split(apart, labels, 0, 0, seed)
        assert not set(split.labelled) & set(test)
        assert sorted(split.test) == sorted(test)
    assert len(split.labelled) == 32
    assert not photos.is_test.any()  # these are as they were


def test_no_group_is_torn_by_the_test(opened):
    photos = opened(group_by=r"(\d)\.png$")
    _, test, _ = curve.set_test_apart(photos, make_split(photos, None))
    left = np.setdiff1d(np.arange(len(photos.names)), test)
    assert len(test)
    assert not set(photos.groups[test]) & set(photos.groups[left])


@pytest.mark.parametrize("holdout", [0, 6])
def test_a_test_split_or_a_holdout_stays_the_test(opened, holdout):
    photos = opened()
    photos.is_test[:6] = not holdout
    split = make_split(photos, None, holdout)
    apart, test, what = curve.set_test_apart(photos, split)
    assert apart is photos
    assert sorted(test) == sorted(split.holdout if holdout else range(6))
    assert what == ("holdout" if holdout else "test split")


def test_a_class_of_one_photo_is_told(opened):
    photos = opened()
    photos.labels[photos.labels == 1] = [1] + [0] * (sum(photos.labels == 1) - 1)
    with pytest.raises(UserError, match=r"^--curve: class .* too few .* label more of it"):
        curve.set_test_apart(photos, make_split(photos, None))


# ---- the whole


@pytest.fixture
def narrowed(in_tmp, monkeypatch):
    """An empty folder, narrow encoders, no weights of torchvision's."""
    narrow(monkeypatch)
    evaluate_fast(monkeypatch)
    monkeypatch.setenv("TORCH_HOME", str(in_tmp / "torch"))


@pytest.fixture
def drawn(narrowed, monkeypatch):
    """The picture is drawn."""
    monkeypatch.setattr(label_curve, "draw", DRAW)
    monkeypatch.setattr(label_curve, "save_picture", save_picture)


DRAW = label_curve.draw


def judge(world, *extra, name="multi"):
    fast = ["--epochs", "1", "--batch-size", "4", "--amp", "off", "--device", "cpu"]
    return evaluate.main([str(world / f"{name}.pt"), *fast, *extra])


def read_curve(folder="evaluation") -> dict:
    return json.loads((Path(folder) / "label_curve.json").read_text())


def points(content) -> dict:
    return {(c["name"], p["labels"]): p["values"] for c in content["curves"] for p in c["points"]}


ALL_LINES = (
    "BYOL, frozen",
    "random weights, frozen",
    "BYOL, fine-tuned",
    "supervised from scratch",
)


@pytest.fixture
def counted(narrowed, monkeypatch):
    """What is computed: encoders whose features are taken, and trainings by label count.

    A training gives a result of its own at once.
    """
    computed = {"banks": [], "trained": []}
    extract = curve.extract_bank

    def note_bank(weights, seed, photos, rows, *others):
        if len(rows) != 12:  # the speed is measured on test images alone
            computed["banks"].append((weights.name, seed))
        return extract(weights, seed, photos, rows, *others)

    def note_training(settings, *others):
        computed["trained"].append((settings.init == "random", settings.labels, settings.seed))
        accuracy = (settings.labels + settings.seed) / 100
        return {"test_accuracy": accuracy, "balanced_accuracy": accuracy, "seconds": 1}

    monkeypatch.setattr(curve, "extract_bank", note_bank)
    monkeypatch.setattr(train_classifier, "train", note_training)

    def take():
        taken = dict(computed)
        computed.update(banks=[], trained=[])
        return taken

    return take


def test_the_curve_has_all_lines_and_its_files(world, drawn, capsys):
    assert judge(world, "--curve", "4", "8", "all", "100", "--seeds", "2") == 0
    said = capsys.readouterr()
    content = read_curve()
    found = points(content)
    draws = {4: 2, 8: 2, 32: 1}
    expected = itertools.product(ALL_LINES, draws)
    assert {place: len(values) for place, values in found.items()} == {
        (name, count): draws[count] for name, count in expected
    }
    assert content["counts"] == [4, 8, 32]
    assert content["verdict"]["labels"] == 32  # pretraining took all
    assert content["left_out"] == {"100": "there are 32 to learn from"}
    assert "note        100 labels are left out: there are 32 to learn from" in said.err
    assert "to do       10 linear evaluations, 10 trainings of 112 images in all: " in said.err
    assert "no curve of ImageNet weights (there is no " in said.err
    assert (content["tested"], content["tested_on"]) == (12, "test split")
    assert content["sentence"] in said.out
    assert content["table"] in said.out
    mean = 50 * sum(found["BYOL, fine-tuned", 8])
    row = next(r for r in content["table"].splitlines() if r.startswith("| BYOL, fine-tuned"))
    assert f" | {mean:.1f} ± " in row
    assert content["sentence"] in Path("evaluation/label_curve.md").read_text()
    assert Path("evaluation/label_curve.png").read_bytes().startswith(b"\x89PNG")
    assert not any(Path("evaluation/label_curve_runs").iterdir())  # they would fill the disk
    sentence, (shown,), left_out = left_by_evaluate(Path("evaluation"), content["fingerprint"])
    assert (sentence, left_out) == (content["sentence"], [])
    assert shown.path == Path("evaluation/label_curve.png")
    assert all(name in shown.alt for name in ALL_LINES)
    assert content["command"].startswith("python ")


def test_the_frozen_points_are_those_of_features_taken_alone(world, narrowed):
    flags = "--curve", "8", "16", "--seeds", "2", "--frozen-only"
    assert judge(world, *flags, "--representation", "avgpool") == 0
    found = points(read_curve())
    photos = open_photos(str(world / "photos"), 32)
    config = checkpoint.load(world / "multi.pt", checkpoint.ENCODER)
    extract = FeatureExtractor(image_size=32, mean=config["mean"], std=config["std"],
                               device=torch.device("cpu"), amp=None)  # fmt: skip
    for name in ALL_LINES[:2]:
        for count, draw in itertools.product((8, 16), range(2)):
            torch.manual_seed(draw)
            encoder = Encoder()
            if name.startswith("BYOL"):
                encoder.load_state_dict(config["encoder"])
            split = make_split(photos, count, 0, 0, draw)
            x, held = (extract(encoder, photos, r) for r in (split.labelled, split.test))
            y, truth = (torch.from_numpy(photos.labels[r]) for r in (split.labelled, split.test))
            standardise = Standardise(x, [64])
            head, _ = fit_linear(standardise(x), y, 2)
            hits = (head(standardise(held)).argmax(1) == truth).double().mean().item()
            assert found[name, count][draw] == pytest.approx(hits), (name, count, draw)


def test_the_fine_tuned_points_are_those_of_train_classifier(world, narrowed):
    assert judge(world, "--curve", "8", "--seeds", "1") == 0
    alone = ["--init", str(world / "multi.pt"), "--representation", "combined", "--labels", "8",
             "--epochs", "1", "--batch-size", "4", "--amp", "off", "--device", "cpu",
             "--folds", "0", "--run-dir", "alone"]  # fmt: skip
    assert train_classifier.main(alone) == 0
    expected = json.loads(Path("alone/summary.json").read_text())["test_accuracy"]
    assert points(read_curve())["BYOL, fine-tuned", 8] == [expected]


def test_what_was_judged_is_not_judged_again(world, counted):
    """Also with more counts, more draws, and training from then on."""
    frozen = "--curve", "4", "8", "--seeds", "2", "--frozen-only"
    assert judge(world, *frozen) == 0
    assert counted() == {"banks": [("multi", 0), ("random", 0), ("random", 1)], "trained": []}
    first = points(read_curve())
    assert judge(world, *frozen) == 0
    assert counted() == {"banks": [], "trained": []}
    assert points(read_curve()) == first

    assert judge(world, "--curve", "4", "8", "--seeds", "1") == 0  # trainings are added
    runs = [(False, 4, 0), (True, 4, 0), (False, 8, 0), (True, 8, 0)]
    assert counted() == {"banks": [], "trained": runs}
    more = "--curve", "4", "8", "16", "--seeds", "3"
    assert judge(world, *more) == 0
    done = counted()
    assert sorted(done["banks"]) == [("multi", 0), *(("random", seed) for seed in range(3))]
    of_all = set(itertools.product((False, True), (4, 8, 16), range(3)))
    assert len(done["trained"]) == len(set(done["trained"])) == 18 - 4
    assert set(done["trained"]) == of_all - set(runs)
    found = points(read_curve())
    assert all(found[place][:2] == values for place, values in first.items())


@pytest.mark.parametrize("change", ["weights", "representation", "epochs", "images"])
def test_nothing_stale_is_taken(world, counted, change, tmp_path):
    flags = ["--curve", "8", "--seeds", "1"]
    shutil.copy(world / "multi.pt", "multi.pt")
    assert judge(Path(), *flags) == 0
    counted()
    banks, trained = [("multi", 0), ("random", 0)], [(False, 8, 0), (True, 8, 0)]
    if change == "weights":
        colours = {"mean": [0.4, 0.5, 0.6], "std": [0.3, 0.2, 0.25]}  # as before
        write_encoder("multi.pt", world / "photos", losses="multi", labels=0, seed=9, **colours)
        banks, trained = banks[:1], trained[:1]  # random weights are as they were
    if change == "representation":
        flags += ["--representation", "avgpool"]
    if change == "epochs":
        flags, banks = [*flags, "--epochs", "2"], []
    if change == "images":
        cartoon_folder(tmp_path / "other", train=32, test=13)
        flags += ["--data", str(tmp_path / "other")]
    assert judge(Path(), *flags) == 0
    done = counted()
    if change == "images":  # 13 are tested on, also when the speed is measured
        done["banks"] = [bank for bank in done["banks"] if bank in banks][-2:]
    assert done == {"banks": banks, "trained": trained}


def test_a_stopped_curve_goes_on(world, counted, monkeypatch, capsys):
    train, calls = train_classifier.train, []

    def stop(*given):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return train(*given)

    flags = "--curve", "4", "8", "--seeds", "1"
    with monkeypatch.context() as patch:
        patch.setattr(train_classifier, "train", stop)
        assert judge(world, *flags) == 130
    assert "label_curve_results.json; the same command goes on" in capsys.readouterr().err
    partial = read_curve()
    assert partial["unfinished"] == "unfinished, 2 of 8 results are missing"
    counted()
    assert judge(world, *flags) == 0
    assert counted() == {"banks": [], "trained": [(False, 8, 0), (True, 8, 0)]}
    assert read_curve()["unfinished"] == ""


def test_hidden_labels_are_tested_apart(untested, narrowed, capsys):
    write_encoder("multi.pt", untested, losses="multi")
    assert judge(Path(), "--curve", "4", "all", "--frozen-only", "--labels", "16") == 0
    content = read_curve()
    assert content["tested"] == 8
    assert content["tested_on"] == "labelled photos set apart; BYOL saw them without labels"
    assert (content["counts"], content["verdict"]["labels"]) == ([4, 16, 32], 16)
    assert "Training from scratch was not run." in content["sentence"]
    assert judge(Path(), "--curve", "4", "8", "all", "--frozen-only") == 0
    assert read_curve()["verdict"]["labels"] == 8  # those of pretraining


def test_uneven_classes_get_the_balanced_accuracy(untested, narrowed):
    rare = Path("rare")
    for folder, keep in zip(sorted(untested.iterdir()), (6, 40), strict=True):
        (rare / folder.name).mkdir(parents=True)
        for path in sorted(folder.iterdir())[:keep]:
            shutil.copy(path, rare / folder.name)
    write_encoder("multi.pt", rare, losses="multi", labels=0)
    assert judge(Path(), "--curve", "4", "all", "--frozen-only") == 0
    content = read_curve()
    assert (content["measure"], content["chance"]) == ("balanced accuracy", 0.5)
    assert content["table"].startswith("| balanced accuracy, % | 4 labels |")


def test_hostile_names_of_classes_do_no_harm(untested, drawn, capsys):
    names = "<script>alert(1)<", "$x^{2|\x1b[31m\u202e"
    for folder, name in zip(sorted(untested.iterdir()), names, strict=True):
        shutil.copytree(folder, Path("hostile") / name)
    for path in sorted((Path("hostile") / names[1]).iterdir())[9:]:
        path.unlink()
    write_encoder("multi.pt", "hostile", losses="multi", labels=0)
    shutil.copy("multi.pt", "we$ird|.pt")
    torch.save(Encoder().state_dict(), "a|$b.pth")
    flags = "--curve", "4", "20", "--frozen-only", "--init", "a|$b.pth"
    assert judge(Path(), *flags, name="we$ird|") == 0
    said = capsys.readouterr()
    assert "\x1b" not in said.err + said.out
    assert "\u202e" not in said.err + said.out
    assert "20 labels are left out: class $x^{2|\\x1b[31m\\u202e has 7 to learn from" in said.err
    content = read_curve()
    assert r"| a\|$b.pth, frozen |" in content["table"]
    assert Path("evaluation/label_curve.png").read_bytes().startswith(b"\x89PNG")


def test_imagenet_has_a_line_if_its_weights_are_there(world, narrowed):
    path = imagenet_file("resnet18")
    path.parent.mkdir(parents=True)
    torch.save({**Encoder().state_dict(), "fc.weight": torch.zeros(1)}, path)
    assert judge(world, "--curve", "8", "--seeds", "1", "--frozen-only") == 0
    assert ("ImageNet, frozen", 8) in points(read_curve())


# ---- bad input


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--curve", "10", "x"], ["--curve must be a whole number of at least 2 or all", "'x'"]),
        (["--curve", "1"], ["--curve must be a whole number of at least 2 or all"]),
        (["--curve", "-5"], ["-5"]),
        (["--curve", "10", "010"], ["--curve 10 10: give each number once"]),
        (["--curve", "900"], ["no label count", "900: there are 32 to learn from"]),
        (["--curve", "4", "8", "--seeds", "1", "2", "3"], ["--seeds", "each of --curve 4 8"]),
        (["--curve", "4", "--labels", "4", "8"], ["--labels: with --curve give one number"]),
        (["--curve", "4", "--supervised-epochs", "3"], ["--supervised-epochs is for the table"]),
        (["--representation", "avgpool"], ["--representation is for --curve"]),
        (["--curve", "4", "--seeds", "0"], ["--seeds must be a whole number of at least 1"]),
    ],
)
def test_bad_lists_get_one_sentence(world, narrowed, capsys, flags, words):
    fails(capsys, judge(world, *flags), *words)
    assert not list(Path().glob("evaluation/label_curve*"))


def test_the_curve_is_of_one_file(world, narrowed, capsys):
    code = evaluate.main([str(world / "multi.pt"), str(world / "classic.pt"), "--curve"])
    fails(capsys, code, "--curve judges one file")


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"results": 3}', '{"results": {"a": 1}}', "[" * 100_000,
     '{"results": {"a": {"accuracy": 1.5, "balanced": 0.5}}}'],
)  # fmt: skip
def test_damaged_results_are_told(world, narrowed, capsys, text):
    path = Path("evaluation/label_curve_results.json")
    path.parent.mkdir()
    path.write_text(text)
    fails(capsys, judge(world, "--curve", "4"), "label_curve_results.json is damaged: ")
    assert path.read_text() == text


def test_two_at_once_are_refused(world, narrowed, capsys):
    Path("evaluation").mkdir()
    with evaluate.lock_run_folder(Path("evaluation"), "--out"):
        fails(capsys, judge(world, "--curve", "4"), "is in use by process", "--out")


def test_the_picture_is_drawn_without_an_arrow_if_there_is_nothing_to_show():
    base = {"sentence": "x" * 200, "counts": [10, 100, 1000], "measure": "test accuracy",
            "chance": 0.5, "data": "a$b", "image_size": 64, "unfinished": ""}  # fmt: skip
    curves = [line("byol", True, 0.6, 0.7, 0.8, std=None), RANDOM, SCRATCH]
    arrows = []
    for count, equal, kind in ((100, 300.0, "about"), (100, 50.0, "about"), (100, 1000, "more")):
        verdict = {
            "labels": count,
            "equal_labels": equal,
            "worth": kind,
            "accuracy": 0.7,
            "told": "about 300",
        }
        figure = label_curve.draw({**base, "curves": curves, "verdict": verdict})
        (axes,) = figure.axes
        arrows.append(sum(getattr(t, "arrow_patch", None) is not None for t in axes.texts))
        assert ("about 300" in [t.get_text() for t in axes.texts]) == (equal == 300)
        assert [t.get_text() for t in axes.get_xticklabels()] == ["10", "100", "1,000"]
        plt.close(figure)
        lines = [each.get_xdata() for each in axes.lines if len(each.get_xdata()) == 3]
        assert len(lines) == 3
        assert all(math.isfinite(x) for each in lines for x in each)
    assert arrows == [1, 0, 0]
