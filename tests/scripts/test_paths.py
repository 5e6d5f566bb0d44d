"""Each faster path of training against the plain one: the same loss, run through the script."""

import copy
import re

import pytest
import torch
from photo_files import cartoon_folder

import byol.optim
import train_byol
from byol.encoder import Encoder
from byol.errors import UserError
from byol.hardware import cuda_graph, small_maps, step
from byol.hardware.batches import Batches
from byol.hardware.cuda_graph import RecordedBackward, record
from byol.method import BYOL
from byol.run.metrics import read_jsonl

TINY = ["--image-size", "32", "--store-size", "32", "--hidden-dim", "64", "--projection-dim", "32",
        "--batch-size", "32", "--epochs", "2", "--log-every", "1", "--optimizer", "sgd",
        "--lr", "0.2", "--losses", "classic", "--tau0", "0.99", "--warmup-epochs", "10",
        "--recipe", "small", "--device", "cpu", "--labels", "0",
        "--health-every", "0", "--overwrite"]  # fmt: skip


@pytest.fixture(scope="module")
def many_photos(tmp_path_factory):
    return cartoon_folder(tmp_path_factory.mktemp("paths"), train=192, test=2)


@pytest.fixture
def run(many_photos):
    """Two epochs with the given flags: the loss of each of the 12 steps."""

    def losses(*flags):
        assert train_byol.main(["--data", str(many_photos), *TINY, *flags]) == 0
        rows = read_jsonl("runs/byol/metrics.jsonl")
        assert [row["step"] for row in rows] == list(range(1, 13))
        return [row["loss"] for row in rows]

    return losses


def plain(monkeypatch):
    """A pass for each view, library convolutions, an optimizer that is not fused."""
    monkeypatch.setattr(step, "MOST_PIXELS", 0)
    monkeypatch.setattr(small_maps, "MAX_SIDE", 0)
    build = byol.optim.build_optimizer
    monkeypatch.setattr(
        train_byol,
        "build_optimizer",
        lambda name, groups, decay, _: build(name, groups, decay, True),
    )


def one_pass(monkeypatch):
    monkeypatch.setattr(step, "MOST_PIXELS", 2**18)


def patches(monkeypatch):
    monkeypatch.setattr(small_maps, "MAX_SIDE", 5)


def fused(monkeypatch):
    monkeypatch.setattr(train_byol, "build_optimizer", byol.optim.build_optimizer)


def second_epoch(losses):
    """Its mean. Initial weights that differ by 1e-6 spread it by 0.8 % (8 runs), at most 2 %.

    With narrow encoders by 0.7 %, at most 1.3 %.
    """
    return pytest.approx(sum(losses[6:]) / 6, rel=0.05)


@pytest.mark.parametrize(
    ("amp", "close", "paths"),
    [
        ("off", 1e-5, [[one_pass], [patches], [fused]]),
        ("bf16", 1e-2, [[one_pass, patches, fused]]),
    ],
)
def test_two_epochs_by_each_path_reach_the_same_loss(
    run, narrow_encoder, monkeypatch, capsys, amp, close, paths
):
    with monkeypatch.context() as patch:
        plain(patch)
        expected = run("--amp", amp)
        assert "a pass for each view" in capsys.readouterr().err
        assert sum(expected[6:]) / 6 < 0.6 * expected[0]  # it learns, so a fault would show
        if amp == "off":
            assert run("--amp", amp, "--photos-in", "device") == expected
    for path in paths:
        with monkeypatch.context() as patch:
            plain(patch)
            for choose in path:
                choose(patch)
            got = run("--amp", amp)
        assert ("both views in one pass" in capsys.readouterr().err) == (one_pass in path)
        assert got[0] == pytest.approx(expected[0], rel=close), path
        assert sum(got[6:]) / 6 == second_epoch(expected), path


def broken_off(*_):
    """As torch reports a recording in which something was not allowed."""
    try:
        raise RuntimeError("operation not permitted when stream is capturing\nand a long story")
    except RuntimeError:
        raise RuntimeError("operation failed due to a previous error during capture")  # noqa: B904


def full(*_):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


def test_a_step_that_cannot_be_recorded_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(cuda_graph, "free_bytes", lambda _: 2**30)
    plan = (8, 3, 32, 32), torch.ones(1), None, None
    monkeypatch.setattr(cuda_graph, "RecordedBackward", broken_off)
    told = "recorded (operation not permitted when stream is capturing); give --no-cuda-graph"
    with pytest.raises(UserError, match=re.escape(told)):
        record(None, *plan)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(cuda_graph, "RecordedBackward", full)
    assert record(None, *plan) is None
    assert "no room on the GPU to record a step" in capsys.readouterr().err


def test_a_recording_is_kept_only_if_it_leaves_room(monkeypatch, capsys):
    """It holds a step's memory, and as much again is needed beside it."""
    monkeypatch.setattr(cuda_graph, "RecordedBackward", lambda *_: "recorded")
    for after, kept in ((16, "recorded"), (14, None)):
        told = iter([30, after])
        monkeypatch.setattr(cuda_graph, "free_bytes", lambda _, told=told: next(told))
        assert record(None, (8, 3, 32, 32), torch.ones(1), None, None) == kept
        assert ("no room on the GPU" in capsys.readouterr().err) == (kept is None)


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


@needs_cuda
@pytest.mark.parametrize(
    ("where", "graph"),
    [("auto", "--cuda-graph"), ("host", "--no-cuda-graph"), ("device", "--cuda-graph")],
)
@pytest.mark.parametrize(
    ("optimizer", "amp", "whitening"),
    [("lars", "bf16", "0"), ("lars", "fp16", "0"), ("sgd", "bf16", "0"), ("adamw", "bf16", "0"),
     ("sgd", "bf16", "0.01")],
)  # fmt: skip
def test_cuda_is_never_waited_for_in_the_loop(
    run, monkeypatch, where, graph, optimizer, amp, whitening
):
    """Whatever drains the device's queue is an error, but for the end, which saves.

    Torch's own check sees copies that wait and reads of a value; it does not see waits for an event
    (tests/run/test_log.py is about the one of them).
    """

    class Strict(Batches):
        def from_step(self, first):
            for number, batch in super().from_step(first):
                torch.cuda.set_sync_debug_mode("default" if number == 11 else "error")
                yield number, batch

    monkeypatch.setattr(train_byol, "Batches", Strict)
    flags = ["--amp", amp, "--photos-in", where, "--optimizer", optimizer, "--whitening", whitening]
    try:
        run("--device", "cuda", *flags, graph)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_cuda
def test_cuda_photos_on_the_card_or_the_host_give_the_same_loss(run):
    flags = ["--device", "cuda", "--amp", "off"]
    host, card = (run(*flags, "--photos-in", where) for where in ("host", "device"))
    assert card[0] == pytest.approx(host[0], rel=1e-5)
    assert sum(card[6:]) / 6 == second_epoch(host)
    on_cpu = run("--amp", "off")
    assert host[0] == pytest.approx(on_cpu[0], rel=1e-2)


@needs_cuda
@pytest.mark.parametrize(("amp", "whitening"), [("off", "0"), ("fp16", "0"), ("off", "0.01")])
def test_a_cuda_graph_gives_the_same_loss(run, monkeypatch, amp, whitening):
    made = []
    monkeypatch.setattr(
        cuda_graph, "RecordedBackward", lambda *a: made.append(a[1]) or RecordedBackward(*a)
    )
    blocks = ["--losses", "multi", "--inner-grids", "1", "2"]
    flags = ["--device", "cuda", "--amp", amp, *blocks, "--view-size", "24"]
    flags += ["--whitening", whitening]
    recorded = run(*flags, "--cuda-graph")
    assert made == [(32, 3, 24, 24)]
    plain = run(*flags, "--no-cuda-graph")
    assert len(made) == 1
    near = 1e-5 if amp == "off" else 1e-2
    assert recorded[0] == pytest.approx(plain[0], rel=near)
    assert sum(recorded[6:]) / 6 == second_epoch(plain)


@needs_cuda
def test_recording_a_cuda_graph_leaves_the_model_as_it_was(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    device = torch.device("cuda", 0)
    model = BYOL(Encoder(), 32, 16).to(device, memory_format=torch.channels_last)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    exact = copy.deepcopy(model).double()
    weights = torch.ones(1, device=device)
    backward = RecordedBackward(model, (16, 3, 48, 48), weights, None, lambda loss: loss)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert all(p.grad is None for p in model.parameters())

    views = torch.randn(2, 16, 3, 48, 48, device=device)
    for _ in range(2):  # the second call does not add to the first
        losses, _ = backward(*views)
    expected, _ = exact.backward(*views.double(), weights, None)
    assert losses.tolist() == pytest.approx(expected.tolist(), rel=1e-4)
    for (name, a), b in zip(exact.named_parameters(), model.parameters(), strict=True):
        if a.requires_grad:
            far = (a.grad - b.grad).norm()
            assert far < 2e-2 * a.grad.norm() + 1e-4, name
