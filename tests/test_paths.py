"""Each faster path of training against the plain one: the same loss, run through the script."""

import pytest
import torch
from photo_files import cartoon_folder

import byol.optim
import train_byol
from byol import small_maps
from byol.compiled import compile_encoders
from byol.encoder import Encoder
from byol.learner import BYOL
from byol.metrics import read_jsonl

TINY = ["--image-size", "32", "--store-size", "32", "--hidden-dim", "64", "--projection-dim", "32",
        "--batch-size", "32", "--epochs", "2", "--log-every", "1", "--optimizer", "sgd",
        "--lr", "0.2", "--recipe", "small", "--device", "cpu", "--labels", "0",
        "--overwrite"]  # fmt: skip


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    return cartoon_folder(tmp_path_factory.mktemp("paths"), train=192, test=2)


@pytest.fixture
def run(photos, tmp_path, monkeypatch):
    """Two epochs with the given flags -> the loss of each of the 12 steps."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BYOL_CACHE", str(tmp_path))

    def losses(*flags):
        assert train_byol.main(["--data", str(photos), *TINY, *flags]) == 0
        rows = read_jsonl("runs/byol/metrics.jsonl")
        assert [row["step"] for row in rows] == list(range(1, 13))
        return [row["loss"] for row in rows]

    return losses


def plain(monkeypatch):
    """A pass for each view, library convolutions, an optimizer that is not fused."""
    monkeypatch.setattr(train_byol, "MOST_PIXELS", 0)
    monkeypatch.setattr(small_maps, "MAX_SIDE", 0)
    build = byol.optim.build_optimizer
    monkeypatch.setattr(
        train_byol,
        "build_optimizer",
        lambda name, groups, decay, _: build(name, groups, decay, True),
    )


PATHS = {
    "one pass": lambda patch: patch.setattr(train_byol, "MOST_PIXELS", 2**18),
    "patches": lambda patch: patch.setattr(small_maps, "MAX_SIDE", 5),
    "fused": lambda patch: patch.setattr(train_byol, "build_optimizer", byol.optim.build_optimizer),
}


def second_epoch(losses):
    """Its mean, which repeats to a per cent or so when only the order of sums changes."""
    return pytest.approx(sum(losses[6:]) / 6, rel=0.03)


@pytest.mark.parametrize(("amp", "close"), [("off", 1e-5), ("bf16", 1e-2)])
def test_two_epochs_by_each_path_reach_the_same_loss(run, monkeypatch, amp, close):
    with monkeypatch.context() as patch:
        plain(patch)
        expected = run("--amp", amp)
        assert sum(expected[6:]) / 6 < 0.6 * expected[0]  # it learns, so a fault would show
        assert run("--amp", amp, "--photos-in", "device") == expected
    for name, choose in PATHS.items():
        with monkeypatch.context() as patch:
            plain(patch)
            choose(patch)
            got = run("--amp", amp)
        assert got[0] == pytest.approx(expected[0], rel=close), name
        assert sum(got[6:]) / 6 == second_epoch(expected), name


@pytest.mark.slow
def test_two_epochs_compiled_reach_the_same_loss(run, monkeypatch, capsys):
    plain(monkeypatch)
    expected = run("--amp", "off")
    got = run("--amp", "off", "--compile")
    assert "--compile failed" not in capsys.readouterr().err
    assert got[0] == pytest.approx(expected[0], rel=1e-5)
    assert sum(got[6:]) / 6 == second_epoch(expected)


def test_a_failed_compile_is_one_line_and_training_goes_on(run, monkeypatch, capsys):
    expected = run("--amp", "off")

    def broken(function, **_):
        def fails(*_):
            raise RuntimeError("no compiler here\nand a long story")

        return fails

    monkeypatch.setattr(torch, "compile", broken)
    capsys.readouterr()
    assert run("--amp", "off", "--compile") == expected
    told = [line for line in capsys.readouterr().err.splitlines() if "compile" in line]
    assert told == ["--compile failed, so it is left out: no compiler here"]


def test_trying_to_compile_leaves_the_model_as_it_was(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    model = BYOL(Encoder(), 32, 16)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert compile_encoders(model, 4, 32, None) is None
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("where", ["host", "device"])
@pytest.mark.parametrize("optimizer", ["lars", "sgd", "adamw"])
def test_cuda_is_never_waited_for_in_the_loop(run, monkeypatch, where, optimizer):
    """Any call that synchronises is an error, but for those of the end, which saves."""
    batches = train_byol.batches

    def strict(*args):
        for step, chosen, stored in batches(*args):
            torch.cuda.set_sync_debug_mode("default" if step == 11 else "error")
            yield step, chosen, stored

    monkeypatch.setattr(train_byol, "batches", strict)
    try:
        run("--device", "cuda", "--amp", "bf16", "--photos-in", where, "--optimizer", optimizer)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_photos_on_the_card_or_the_host_give_the_same_loss(run):
    flags = ["--device", "cuda", "--amp", "off"]
    host, card = (run(*flags, "--photos-in", where) for where in ("host", "device"))
    assert card[0] == pytest.approx(host[0], rel=1e-5)
    assert sum(card[6:]) / 6 == second_epoch(host)
    on_cpu = run("--amp", "off")
    assert host[0] == pytest.approx(on_cpu[0], rel=1e-2)
