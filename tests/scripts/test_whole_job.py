"""From photos to pictures: the scripts one after the other, and what they leave behind."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

import plot_losses
import train_byol
from byol.encoder import Encoder
from byol.run.metrics import read_jsonl
from byol.views.augment import central_view
from data import open_photos


def test_pretraining_says_what_it_does_and_writes_what_it_has_learned(pretrained):
    assert "24 unlabelled images" in pretrained.printed
    assert "8 labelled" in pretrained.printed
    assert "12 in a test split" in pretrained.printed
    assert "rate 0.06 x 8/256 =" in pretrained.printed
    run = pretrained.folder / "runs" / "byol"
    rows = read_jsonl(run / "metrics.jsonl")
    assert [row["step"] for row in rows] == [2, 3, 4, 6]  # every second, and where epochs end
    for row in rows:
        assert row.keys() == {"step", "epoch", "loss", "lr", "tau", "images_per_second", "spread"}
        assert 0 < row["loss"] < 8
    assert json.loads((run / "config.json").read_text())["batch_size"] == 8
    assert len(json.loads((run / "split.json").read_text())["labelled"]) == 8

    content = torch.load(pretrained.folder / "byol.pt", weights_only=True)
    missing, unexpected = torchvision.models.resnet18().load_state_dict(
        content["encoder"], strict=False
    )
    assert (sorted(missing), unexpected) == (["fc.bias", "fc.weight"], [])
    assert content["image_size"] == 32
    assert content["mean"] == [0.4, 0.5, 0.6]
    online = torch.load(run / "last.pt", weights_only=True)["model"]
    for key, value in content["encoder"].items():
        assert torch.equal(value, online[f"encoder.{key}"]), key


def test_classifiers_and_pictures_follow(pretrained, photos, classify, no_drawing, capsys):
    shutil.copy(pretrained.folder / "byol.pt", "byol.pt")
    shutil.copytree(pretrained.folder / "runs" / "byol", "runs/byol")
    random = ["--data", str(photos), "--labels", "8", "--image-size", "32", "--store-size", "32"]
    for seed in ("0", "1"):
        assert classify(*random, "--seed", seed) == 0
        assert classify(*random, "--seed", seed, "--freeze") == 0
    assert classify("--init", "byol.pt") == 0
    assert classify("--init", "byol.pt", "--freeze", "--seeds", "2") == 0
    summary = json.loads(Path("runs/classifier-byol-frozen/summary.json").read_text())
    assert summary["tested_on"] == "test split"
    assert (summary["labels"], summary["test_images"], summary["freeze"]) == (8, 12, True)
    rows = read_jsonl("runs/classifier-byol-full/metrics.jsonl")
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert Path("runs/classifier-random-full-seed1/classifier.pt").is_file()
    second = json.loads(Path("runs/classifier-byol-frozen-seed1/summary.json").read_text())
    assert second["seed"] == 1
    saved = torch.load("runs/classifier-byol-frozen/classifier.pt", weights_only=True)
    repeated = accuracy_with_torchvision(saved, photos / "test")
    assert repeated == pytest.approx(summary["test_accuracy"], abs=1 / 12)

    capsys.readouterr()
    assert plot_losses.main([]) == 0
    captured = capsys.readouterr()
    assert "no run" not in captured.out + captured.err
    assert "(2 seeds)" in captured.out
    assert {path.stem for path in Path("plots").glob("*.png")} == {
        "loss1", "loss2", "accuracy", "pretraining", "views", "map", "neighbours", "confusion",
        "mistakes",
    }  # fmt: skip


def accuracy_with_torchvision(saved: dict, folder: Path) -> float:
    """Measure a saved classifier on `folder`, without the project's parts."""
    model = torchvision.models.resnet18(num_classes=2)
    head = {f"fc.{name}": value for name, value in saved["head"].items()}
    model.load_state_dict(saved["encoder"] | head)
    model.eval()
    hits, paths = 0, sorted(folder.glob("*/*.png"))
    for path in paths:
        image = torchvision.transforms.functional.to_tensor(Image.open(path).resize((32, 32), 3))
        x = torchvision.transforms.functional.normalize(image, saved["mean"], saved["std"])
        hits += saved["classes"][model(x[None]).argmax()] == path.parent.name
    return hits / len(paths)


class LikeTimm:
    """Its ResNet has the names of torchvision's (tests/evaluation/test_hub.py)."""

    @staticmethod
    def create_model(name: str, num_classes: int) -> torch.nn.Module:
        model = torchvision.models.get_model(name)
        model.fc = torch.nn.Identity()
        return model


def test_what_is_written_can_be_used_without_the_project(root, pretrained, classify, tmp_path):
    """The lines of docs/weights.md, on a photo of the stored size, give the project's scores."""
    draw = np.random.default_rng(0)
    for number in range(12):
        file = tmp_path / "square" / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(256, size=(32, 32, 3), dtype=np.uint8)).save(file)
    shutil.copy(pretrained.folder / "byol.pt", "byol.pt")
    square = ["--data", str(tmp_path / "square"), "--labels", "8"]
    assert classify("--init", "byol.pt", "--freeze", *square) == 0
    shutil.copy(file, "photo.jpg")
    page = (root / "docs" / "weights.md").read_text()
    code = page[page.index('    content = torch.load("byol.pt"') :]
    lines = [line[4:] for line in code.partition("\n## ")[0].splitlines() if line[:4] == " " * 4]
    known = {"torch": torch, "torchvision": torchvision, "Image": Image, "timm": LikeTimm}
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


def test_the_lines_for_use_in_python_give_the_same_classes(
    root, narrow_encoder, narrow_run, photos, classify
):
    """Those of docs/weights.md: as many probabilities as classes, which add up to 1."""
    assert classify("--init", str(narrow_run.folder / "byol.pt"), "--freeze") == 0
    page = (root / "docs" / "weights.md").read_text()
    code = page[page.index("    from byol.evaluation.classifier import Classifier") :]
    lines = [line[4:] for line in code.partition("\n## ")[0].splitlines() if line[:4] == " " * 4]
    known = {"np": np}
    exec("\n".join(lines).replace('"new_photos", 180', f"{str(photos)!r}, 32"), known)
    assert known["classifier"].classes == known["photos"].classes
    assert known["chances"].shape == (44, 2)
    torch.testing.assert_close(known["chances"].sum(1), torch.ones(44))
    summary = json.loads(Path("runs/classifier-byol-frozen/summary.json").read_text())
    test = np.array([name.startswith("test/") for name in known["photos"].names])
    hits = known["chances"].argmax(1).numpy()[test] == known["photos"].labels[test]
    # "auto" may be bfloat16 here, where `classify` is in float32
    assert hits.mean() == pytest.approx(summary["test_accuracy"], abs=1 / 12)


def test_real_photos_go_from_a_zip_to_pictures(real_photos, narrow_encoder, no_drawing, classify):
    """A hundred of them, two empty files among them, from zip to pictures.

    With losses on inner blocks and their features, which at 48 px and more are averaged to a grid.
    """
    with zipfile.ZipFile(real_photos) as source, zipfile.ZipFile("some.zip", "w") as some:
        for kind, empty in (("Cat", 666), ("Dog", 11702)):
            for number in [*range(60), empty]:
                name = f"PetImages/{kind}/{number}.jpg"
                some.writestr(name, source.read(name))
    size = ["--image-size", "48", "--labels", "20"]
    multi = ["--losses", "multi", "--optimizer", "adamw", "--batch-size", "32", "--epochs", "1"]
    assert train_byol.main(["--data", "some.zip", *size, *multi]) == 0
    assert classify("--init", "byol.pt", "--freeze") == 0
    assert classify("--init", "byol.pt", "--freeze", "--representation", "combined") == 0
    assert classify("--init", "byol.pt", "--representation", "combined", "--epochs", "1") == 0
    combined = json.loads(Path("runs/classifier-byol-frozen-combined/summary.json").read_text())
    assert combined["representation"] == "combined"
    summary = json.loads(Path("runs/classifier-byol-frozen/summary.json").read_text())
    assert summary["tested_on"] == "hidden labels"
    assert summary["test_images"] == 100
    assert plot_losses.main([]) == 0
