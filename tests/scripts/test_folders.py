"""What the scripts say of folders, and that what they write is no photo: through `main(argv)`."""

import json
from pathlib import Path

import pytest
from photo_files import cartoon_folder, pngs, write_folder, write_zip
from refusals import fails

import evaluate
import plot_losses
import train_byol
import train_classifier

SIZE = ["--image-size", "32", "--store-size", "32", "--amp", "off", "--device", "cpu"]
BYOL = ["--labels", "8", "--hidden-dim", "16", "--projection-dim", "8", "--losses", "classic",
        "--batch-size", "8", "--epochs", "1", "--recipe", "cartoons", "--health-every", "0",
        *SIZE]  # fmt: skip
CLASSIFIER = ["--labels", "8", "--epochs", "1", "--folds", "0", *SIZE]


@pytest.fixture(autouse=True)
def _narrow(narrow_encoder):
    """All of it with narrow encoders."""


def line(text: str, word: str) -> str:
    """The line of the banner that begins with this word."""
    (found,) = [line for line in text.splitlines() if line.startswith(f"{word:12}")]
    return found


@pytest.mark.parametrize("judged", [False, pytest.param(True, marks=pytest.mark.hazard)])
def test_each_script_says_classes_tests_and_what_was_passed_over(in_tmp, capsys, judged):
    root = cartoon_folder(Path("photos"), train=32, test=12)
    (root / "train" / "cat" / "clip.mp4").write_bytes(b"x")
    assert train_byol.main(["--data", "photos", *BYOL]) == 0
    want = line(capsys.readouterr().err, "classes")
    assert want.startswith("classes     2: cat ")
    assert want.endswith(
        "; for the test: the folder test (12); passed over: 1 video (train/cat/clip.mp4)"
    )
    frozen = ["--init", "byol.pt", "--freeze", "--epochs", "1", "--folds", "0"]
    assert train_classifier.main(frozen) == 0
    assert line(capsys.readouterr().err, "classes") == want
    flags = ["--labels", "8", "--seeds", "1", "--frozen-only", "--device", "cpu", "--amp", "off",
             "--inner-blocks", "layer3.0", "--inner-grids", "1"]  # fmt: skip
    if judged:
        assert evaluate.main(["byol.pt", *flags]) == 0
        assert line(capsys.readouterr().err, "classes") == want


def test_a_run_in_the_folder_of_the_photos_goes_on_after_a_plot(in_tmp, no_drawing, capsys):
    cartoon_folder(Path("."), train=32, test=0)
    run = ["--data", ".", *BYOL, "--run-dir", "runs/byol"]
    assert train_byol.main(run) == 0
    assert train_classifier.main(["--data", ".", *CLASSIFIER]) == 0
    assert plot_losses.main(["--out", "."]) == 0
    assert train_byol.main([*run, "--resume"]) == 0
    classifier = ["--data", ".", *CLASSIFIER, "--resume"]
    assert train_classifier.main(classifier) == 0
    told = capsys.readouterr().err
    assert "holds this run, finished" in told
    assert "pictures that this project drew (accuracy.png, confusion.png, loss1.png" in told
    assert {text[:22] for text in told.splitlines() if text.startswith("classes")} == {
        "classes     2: cat 16,"
    }


def test_classes_at_goes_with_the_encoder_and_is_a_setting_of_the_run(in_tmp, capsys):
    path = str(
        write_zip(
            Path("a.zip"),
            pngs(*(f"{c}/{k}/{i}.png" for c in "uv" for k in ("cat", "dog") for i in range(12))),
        )
    )
    assert train_byol.main(["--data", path, *BYOL, "--classes-at", "2"]) == 0
    assert line(capsys.readouterr().err, "classes").startswith("classes     2: cat 24, dog 24;")
    assert train_byol.main(["--data", path, *BYOL, "--resume"]) == 2
    fails(capsys, 2, "classes_at was 2 and is now None")
    frozen = ["--init", "byol.pt", "--freeze", "--epochs", "1", "--folds", "0"]
    assert train_classifier.main(frozen) == 0
    assert line(capsys.readouterr().err, "classes").startswith("classes     2: cat 24, dog 24;")
    summary = json.loads(Path("runs/classifier-byol-frozen/summary.json").read_text())
    assert (summary["classes"], summary["run"]["classes_at"]) == (["cat", "dog"], 2)
    code = train_classifier.main([*frozen, "--classes-at", "auto", "--runs", "others"])
    captured = capsys.readouterr()
    assert code == 0
    assert line(captured.err, "classes").startswith("classes     2: u 24, v 24;")
    assert "each holds the folders cat and dog" in captured.err
    assert "byol.pt was trained with --classes-at 2, and this is auto" in captured.err
    fails(capsys, train_classifier.main([*frozen, "--classes-at", "9"]), "--classes-at 9: no photo")
    fails(capsys, train_classifier.main([*frozen, "--classes-at", "-1"]), "classes_at", "least 0")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"cat/1.png": None, "cat/2.png": None, "dog/clip.mov": b"x"},
         ["0 class folders", "all of its photos are in cat", "no photos in dog", "dog/clip.mov"]),
        ({"DSC_1.NEF": b"x", "DSC_2.NEF": b"x"}, ["2 camera RAW files", "export them as JPEG"]),
        ({"train.7z": b"x", "test1.rar": b"x"}, ["2 archives (test1.rar, train.7z)", "unpack"]),
    ],
)  # fmt: skip
def test_a_folder_that_will_not_do_is_told_in_one_sentence(in_tmp, capsys, content, words):
    photos = {name: blob if blob else pngs(name)[name] for name, blob in content.items()}
    write_folder(Path("in"), photos)
    fails(capsys, train_classifier.main(["--data", "in", *CLASSIFIER]), "--data in", *words)
