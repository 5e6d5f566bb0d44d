"""Each faster path of training against the plain one: the same loss, run through the script."""

import copy
import re

import pytest
import torch
from photo_files import cartoon_folder

import byol.optim
import train_byol
from byol import cuda_graph, small_maps
from byol.compiled import compile_encoders
from byol.cuda_graph import RecordedBackward, record
from byol.encoder import Encoder
from byol.errors import UserError
from byol.learner import BYOL
from byol.metrics import read_jsonl

TINY = ["--image-size", "32", "--store-size", "32", "--hidden-dim", "64", "--projection-dim", "32",
        "--batch-size", "32", "--epochs", "2", "--log-every", "1", "--optimizer", "sgd",
        "--lr", "0.2", "--losses", "classic", "--tau0", "0.99", "--warmup-epochs", "10",
        "--recipe", "small", "--device", "cpu", "--labels", "0",
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
        if "--log-every" not in flags:
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
    """Its mean. Initial weights that differ by 1e-6 spread it by 0.8 % (8 runs), at most 2 %."""
    return pytest.approx(sum(losses[6:]) / 6, rel=0.05)


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
def test_compiled_gradients_and_statistics_are_those_of_float64():
    torch.manual_seed(0)
    exact = BYOL(Encoder(), 32, 16).double()
    compiled = copy.deepcopy(exact).float().to(memory_format=torch.channels_last)
    assert compile_encoders(compiled, 16, [32, 48], None) is None
    views = torch.randn(2, 16, 3, 32, 32)
    loss, _ = exact.backward(*views.double(), torch.ones(1), None)
    got, _ = compiled.backward(*views, torch.ones(1), None)
    torch.testing.assert_close(got, loss, atol=1e-4, rtol=1e-5)
    for (name, a), b in zip(exact.named_parameters(), compiled.parameters(), strict=True):
        if a.requires_grad:  # a ReLU that flips by rounding moves a gradient by parts in a thousand
            assert (a.grad - b.grad).norm() < 1e-6 + 0.02 * a.grad.norm(), name
    for (name, a), b in zip(exact.named_buffers(), compiled.buffers(), strict=True):
        torch.testing.assert_close(b.to(a), a, atol=1e-4, rtol=1e-4, msg=name)


def test_a_failed_compile_is_one_line_and_the_plain_networks(monkeypatch):
    def broken(function, **_):
        def fails(*_):
            raise RuntimeError("no compiler here\nand a long story")

        return fails

    monkeypatch.setattr(torch, "compile", broken)
    model = BYOL(Encoder(), 32, 16)
    assert compile_encoders(model, 4, [32], None) == "no compiler here"
    model.backward(*torch.randn(2, 4, 3, 32, 32), torch.ones(1), None)


def test_trying_to_compile_leaves_the_model_as_it_was(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    model = BYOL(Encoder(), 32, 16)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert compile_encoders(model, 4, [32], None) is None
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert all(p.grad is None for p in model.parameters())


def test_values_are_read_when_later_ones_are_due(run, monkeypatch):
    """So that a GPU has had a step's time to make them; at the end they are read at once."""
    story = []

    def read_later(tensor):
        number = len(story)
        story.append("ask")
        return lambda: story.append(f"read {number}") or tensor.tolist()

    monkeypatch.setattr(train_byol, "read_later", read_later)
    run("--log-every", "6")
    assert story == ["ask", "ask", "read 0", "read 1"]
    story.clear()
    run("--log-every", "4")  # at 4, 6 (an epoch's end), 8 and 12
    assert story == ["ask", "ask", "read 0", "ask", "read 1", "ask", "read 3", "read 5"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize(
    ("where", "graph"),
    [("auto", "--cuda-graph"), ("host", "--no-cuda-graph"), ("device", "--cuda-graph")],
)
@pytest.mark.parametrize(
    ("optimizer", "amp"), [("lars", "bf16"), ("sgd", "bf16"), ("adamw", "bf16")]
)
def test_cuda_is_never_waited_for_in_the_loop(run, monkeypatch, where, graph, optimizer, amp):
    """Whatever drains the device's queue is an error, but for the end, which saves.

    Torch's own check sees copies that wait and reads of a value; it does not see waits for an event
    (`test_values_are_read_when_later_ones_are_due` is about the one of them).
    """
    batches = train_byol.batches

    def strict(*args):
        for step, chosen, stored in batches(*args):
            torch.cuda.set_sync_debug_mode("default" if step == 11 else "error")
            yield step, chosen, stored

    monkeypatch.setattr(train_byol, "batches", strict)
    try:
        run("--device", "cuda", "--amp", amp, "--photos-in", where, "--optimizer", optimizer, graph)
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


@pytest.mark.parametrize(("free", "kept"), [(20, True), (19, False)])
def test_a_recording_leaves_as_much_free_as_it_takes(monkeypatch, capsys, free, kept):
    reserved = iter([5, 15])  # before and after
    monkeypatch.setattr(cuda_graph, "free_bytes", lambda _: free)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: next(reserved))
    monkeypatch.setattr(cuda_graph, "RecordedBackward", lambda *_: "recorded")
    got = record(None, 8, 32, torch.ones(1), None, None)
    assert got == ("recorded" if kept else None)
    told = "no room on the GPU to record a step" in capsys.readouterr().err
    assert told != kept


def broken_off(*_):
    """As torch reports a recording in which something was not allowed."""
    try:
        raise RuntimeError("operation not permitted when stream is capturing\nand a long story")
    except RuntimeError:
        raise RuntimeError("operation failed due to a previous error during capture")  # noqa: B904


def full(*_):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


def test_a_step_that_cannot_be_recorded_is_one_sentence(monkeypatch, capsys):
    weights = torch.ones(1)
    monkeypatch.setattr(cuda_graph, "free_bytes", lambda _: 0)
    monkeypatch.setattr(cuda_graph, "RecordedBackward", broken_off)
    told = "recorded (operation not permitted when stream is capturing); give --no-cuda-graph"
    with pytest.raises(UserError, match=re.escape(told)):
        record(None, 8, 32, weights, None, None)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(cuda_graph, "RecordedBackward", full)
    assert record(None, 8, 32, weights, None, None) is None
    assert "no room on the GPU to record a step" in capsys.readouterr().err


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("amp", ["off", "fp16"])
def test_a_cuda_graph_gives_the_same_loss(run, monkeypatch, amp):
    made = []
    monkeypatch.setattr(
        cuda_graph, "RecordedBackward", lambda *a: made.append(a[1]) or RecordedBackward(*a)
    )
    flags = ["--device", "cuda", "--amp", amp, "--losses", "multi", "--tap-grid", "1", "2"]
    recorded = run(*flags, "--cuda-graph")
    assert [shape[-1] for shape in made] == [32]
    plain = run(*flags, "--no-cuda-graph")
    assert len(made) == 1
    near = 1e-5 if amp == "off" else 1e-2
    assert recorded[0] == pytest.approx(plain[0], rel=near)
    assert sum(recorded[6:]) / 6 == second_epoch(plain)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
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
