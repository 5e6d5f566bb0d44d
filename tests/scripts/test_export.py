"""`export.py`: the file gives what the weights give, says how to prepare a photo, and is whole."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch
from processes import longest_file
from refusals import fails
from torchvision.transforms.functional import rgb_to_grayscale

import export
from byol.config import ClassifierConfig, PretrainConfig
from byol.encoder import Encoder
from byol.errors import UserError
from byol.evaluation.classifier import Classifier
from byol.evaluation.portable import Portable
from byol.run import checkpoint

CPU = torch.device("cpu")
SIDE = 30  # the maps of the inner blocks have sides of 4 and 2: one grid fits, the other does not
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
SETTINGS = {"arch": "resnet18", "stem": "imagenet", "image_size": SIDE, "mean": MEAN, "std": STD}
BLOCKS = {"layer1.0": 3, "layer2.0": 2}


@pytest.fixture(autouse=True)
def _small(narrow_encoder, few_layers):
    """All of it with narrow encoders of few layers."""


def settled(encoder: Encoder) -> Encoder:
    """Give BatchNorm statistics that are not the first ones."""
    encoder.train()
    with torch.no_grad():
        encoder(torch.randn(8, 3, SIDE, SIDE))
    return encoder.eval()


def write_classifier(path: str, blocks: dict, **more) -> str:
    torch.manual_seed(0)
    classifier = Classifier(settled(Encoder()), blocks, ["cat", "dog", "鳥"], SETTINGS)
    classifier.save(path, dataclasses.asdict(ClassifierConfig()))
    if more:
        content = torch.load(path, weights_only=True)
        torch.save(content | more, path)
    return path


def write_encoder(path: str) -> str:
    torch.manual_seed(0)
    config = PretrainConfig(image_size=SIDE, view_size=None, mean=MEAN, std=STD)
    checkpoint.save_encoder(path, settled(Encoder()), config, 3, "0")
    return path


def images(count: int) -> torch.Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(9))


def normalised(count: int) -> torch.Tensor:
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (images(count) - mean) / std


def expected(path: str, count: int) -> torch.Tensor:
    """What the project itself computes."""
    with torch.no_grad():
        return Classifier.load(path, CPU)(normalised(count)).softmax(1)


def run_torch(path: str, count: int) -> tuple[torch.Tensor, dict]:
    extra = {"metadata.json": ""}
    program = torch.export.load(path, extra_files=extra)
    return program.module()(images(count)), json.loads(extra["metadata.json"])


def run_onnx(path: str, count: int) -> tuple[torch.Tensor, dict]:
    import onnx
    from onnx.reference import ReferenceEvaluator

    model = onnx.load(path)
    (put_in,), (taken_out,) = model.graph.input, model.graph.output
    assert put_in.name == "images"
    assert [d.dim_value for d in put_in.type.tensor_type.shape.dim][1:] == [3, SIDE, SIDE]
    about = {entry.key: entry.value for entry in model.metadata_props}
    assert taken_out.name == about["output"]
    (out,) = ReferenceEvaluator(model).run(None, {"images": images(count).numpy()})
    return torch.from_numpy(out), about


@pytest.fixture(params=["torch", "onnx"])
def form(request) -> tuple:
    """A format, its suffix, and what reads its files independently of `export.py`."""
    if request.param == "torch":
        return "torch", ".pt2", run_torch
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    return "onnx", ".onnx", run_onnx


@pytest.mark.parametrize("blocks", [{}, BLOCKS], ids=["avgpool", "combined"])
def test_a_classifier_gives_its_probabilities(form, blocks, capsys):
    kind, suffix, run = form
    path = write_classifier("c.pt", blocks)
    assert export.main([path, "--format", kind]) == 0
    told = capsys.readouterr()
    assert told.out == (
        f"wrote c{suffix}: images (N, 3, {SIDE}, {SIDE}) in 0..1 -> probabilities (N, 3)\n"
    )
    assert told.err.startswith("checked with ")
    for count in (1, 5):
        got, about = run(f"c{suffix}", count)
        torch.testing.assert_close(got, expected(path, count), atol=1e-5, rtol=0)
    assert json.loads(about["classes"]) == ["cat", "dog", "鳥"]
    assert (json.loads(about["mean"]), json.loads(about["std"])) == (MEAN, STD)
    assert (about["image_size"], about["output"]) == (str(SIDE), "probabilities")
    assert "temperature" not in about
    assert "inside" in about["normalisation"]
    assert about["resize"]


def test_an_encoder_gives_its_features(form, capsys):
    kind, suffix, run = form
    write_encoder("byol.pt")
    assert export.main(["byol.pt", "--format", kind, "--quiet"]) == 0
    told = capsys.readouterr()
    assert told == (f"wrote byol{suffix}: images (N, 3, 30, 30) in 0..1 -> features (N, 64)\n", "")
    got, about = run(f"byol{suffix}", 2)
    encoder = Encoder()
    encoder.load_state_dict(checkpoint.load("byol.pt", checkpoint.ENCODER)["encoder"])
    with torch.no_grad():
        want = encoder.eval()(normalised(2))
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)
    assert about["output"] == "features"
    assert not about.keys() & {"classes", "temperature"}


def test_without_onnxruntime_the_reference_of_onnx_compares(monkeypatch):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    model = Portable(write_encoder("byol.pt"))
    run, by = export.runner_of_onnx(export.to_onnx(model))
    assert by.startswith("onnx's reference")
    assert export.compare(model, run) < 1e-4


def test_the_temperature_of_a_file_is_in_the_probabilities():
    plain = expected(write_classifier("c.pt", {}), 3)
    warm = Portable(write_classifier("warm.pt", {}, temperature=2.5))
    torch.testing.assert_close(warm(images(3)), (plain.log() / 2.5).softmax(1))
    assert warm.about()["temperature"] == "2.5"
    assert "temperature" not in Portable(write_classifier("cold.pt", {}, temperature=None)).about()
    for value in (0.0, float("nan"), "hot"):
        odd = write_classifier("odd.pt", {}, temperature=value)
        with pytest.raises(UserError, match=r"odd\.pt is damaged: .* impossible temperature"):
            Portable(odd)


def test_a_model_that_sees_grey_makes_photos_grey_itself():
    plain = Portable(write_classifier("c.pt", {}))
    grey = Portable(write_classifier("grey.pt", {}, channels="grey"))
    want = plain(rgb_to_grayscale(images(3), 3))
    torch.testing.assert_close(grey(images(3)), want)
    assert not torch.allclose(want, plain(images(3)), atol=1e-4)
    assert (plain.about().get("grey"), grey.about()["grey"]) == (None, "inside the model")


def test_the_suffix_names_the_format_and_nothing_is_replaced_unasked(capsys):
    write_encoder("byol.pt")
    Path("there.pt2").write_text("mine")
    fails(capsys, export.main(["byol.pt", "--out", "there.pt2"]), "there.pt2 is there already")
    assert Path("there.pt2").read_text() == "mine"
    assert export.main(["byol.pt", "--out", "there.pt2", "--overwrite"]) == 0
    assert torch.export.load("there.pt2").module()(images(2)).shape == (2, 64)


def test_outputs_that_differ_are_refused():
    model = Portable(write_classifier("c.pt", {}))
    assert export.compare(model, model) == 0
    assert export.compare(model, lambda x: model(x) + 5e-5) == pytest.approx(5e-5, rel=0.01)
    for odd in (lambda x: model(x) + 2e-4, lambda x: model(x) * torch.nan):
        with pytest.raises(UserError, match="other outputs than the weights"):
            export.compare(model, odd)


def test_probabilities_of_0_and_1_hide_no_fault():
    """Scores twice as far apart, where the probabilities are the same to 1e-4."""
    model = Portable(write_classifier("c.pt", {}))
    other = Portable(write_classifier("other.pt", {}))
    model.head.weight.mul_(0)
    model.head.bias.copy_(torch.tensor([0.0, 20.0, 40.0]))
    other.head.weight.mul_(0)
    other.head.bias.copy_(torch.tensor([0.0, 40.0, 80.0]))
    assert (model(images(3)) - other(images(3))).abs().max() < 1e-4
    with pytest.raises(UserError, match="other outputs than the weights"):
        export.compare(model, other)


def test_half_precision_is_read_as_any_file_and_gives_nearly_the_same(capsys):
    write_classifier("c.pt", BLOCKS, temperature=2.0)
    assert export.main(["c.pt", "--format", "half"]) == 0
    assert "wrote c.half.pt: byol-classifier in half precision" in capsys.readouterr().out
    whole, half = (torch.load(path, weights_only=True) for path in ("c.pt", "c.half.pt"))
    for part in ("encoder", "head"):
        for name, value in whole[part].items():
            want = value.to(torch.float16) if value.ndim > 1 else value
            assert half[part][name].dtype == want.dtype
            assert torch.equal(half[part][name], want)
    assert all(half[key] == whole[key] for key in whole.keys() - {"encoder", "head"})
    exact, near = Portable("c.pt")(images(32)), Portable("c.half.pt")(images(32))
    assert 0 < (exact - near).abs().max() < 5e-3  # probabilities
    assert all(weight.dtype == torch.float32 for weight in Portable("c.half.pt").parameters())


def test_an_encoder_in_half_precision_begins_a_classifier():
    write_encoder("e.pt")
    assert export.main(["e.pt", "--format", "half", "--out", "small/e.pt"]) == 0
    assert checkpoint.load_encoder(checkpoint.load_pretrained("small/e.pt"), "e").training


def test_weights_beyond_half_precision_are_refused_and_nothing_is_written(capsys):
    write_encoder("e.pt")
    content = torch.load("e.pt", weights_only=True)
    content["encoder"]["conv1.weight"] *= 1e7  # BatchNorm after it takes the factor away
    content["encoder"]["bn1.running_mean"] *= 1e7
    content["encoder"]["bn1.running_var"] *= 1e14
    torch.save(content, "e.pt")
    fails(capsys, export.main(["e.pt", "--format", "half"]), "half precision", "--format")
    assert not Path("e.half.pt").exists()


def test_without_onnx_it_is_one_sentence(capsys, monkeypatch):
    write_encoder("byol.pt")
    for missing in ("onnx", "onnxscript"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, missing, None)
            words = "needs onnx and onnxscript", "pip install onnx onnxscript", "--format torch"
            fails(capsys, export.main(["byol.pt"]), *words)
    assert [path.name for path in Path().iterdir()] == ["byol.pt"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["none.pt"], ["there is no checkpoint none.pt"]),
        (["junk.pt"], ["junk.pt cannot be read as a checkpoint"]),
        (["half.pt"], ["half.pt is incomplete: it lacks head"]),
        (["byol.pt", "--out", "folder"], ["folder is a folder"]),
        (["byol.pt", "--out", "file/model.pt2"], ["cannot be written to"]),
        (["byol.pt", "--format", "tflite"], ["--format", "tflite"]),
    ],
)
def test_bad_input_is_one_sentence(argv, words, capsys):
    write_encoder("byol.pt")
    Path("junk.pt").write_text("junk")
    Path("file").write_text("no folder")
    Path("folder").mkdir()
    content = torch.load(write_classifier("half.pt", {}), weights_only=True)
    torch.save({key: value for key, value in content.items() if key != "head"}, "half.pt")
    before = sorted(Path().rglob("*"))
    fails(capsys, export.main(["--format", "torch", *argv]), *words)
    assert sorted(Path().rglob("*")) == before


def test_a_full_disk_leaves_nothing(capsys):
    write_encoder("byol.pt")
    with longest_file(10_000):
        code = export.main(["byol.pt", "--format", "torch"])
    fails(capsys, code, "no room to write byol.pt2 (File too large)")
    assert [path.name for path in Path().iterdir()] == ["byol.pt"]
