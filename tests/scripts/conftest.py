"""The scripts on tiny data: drawings of 32 px, small heads, two epochs of three steps."""

import contextlib
import io
from types import SimpleNamespace

import pytest
from matplotlib.figure import Figure
from narrow_encoder import narrow

import train_byol
import train_classifier

TINY = ["--image-size", "32", "--store-size", "32", "--hidden-dim", "32", "--projection-dim", "16",
        "--batch-size", "8", "--epochs", "2", "--log-every", "2", "--optimizer", "sgd",
        "--losses", "classic", "--tau0", "0.99", "--warmup-epochs", "10",
        "--recipe", "cartoons", "--amp", "off", "--device", "cpu", "--save-every", "0",
        "--health-every", "0",
        "--mean", "0.4", "0.5", "0.6", "--std", "0.3", "0.2", "0.25"]  # fmt: skip
TINY_CLASSIFIER = ["--epochs", "3", "--batch-size", "4", "--amp", "off", "--device", "cpu",
                   "--folds", "0"]  # fmt: skip


@pytest.fixture(autouse=True)
def _in_tmp(in_tmp):
    """Every test works in a folder of its own."""


@pytest.fixture(scope="session")
def tiny(photos) -> list[str]:
    """The flags of a tiny run of `train_byol.py`: 24 unlabelled photos, batches of 8."""
    return ["--data", str(photos), "--labels", "8", *TINY]


@pytest.fixture(scope="session")
def pretrain(tiny):
    """Run `train_byol.py` with the flags of `tiny` and those that are given: its exit code."""
    return lambda *flags: train_byol.main([*tiny, *flags])


@pytest.fixture(scope="session")
def classify():
    """Run `train_classifier.py` for three epochs: its exit code."""
    return lambda *flags: train_classifier.main([*TINY_CLASSIFIER, *flags])


@pytest.fixture
def no_drawing(monkeypatch) -> None:
    """Each picture of the test is a small white one: the test is about something else."""
    save = Figure.savefig

    def save_white(_, file, **options) -> None:
        save(Figure(figsize=(1, 1)), file, **options)

    monkeypatch.setattr(Figure, "savefig", save_white)


@pytest.fixture(scope="session")
def pretrain_apart(pretrain, cache, tmp_path_factory):
    """Do a run for several tests, in a folder of its own under the names of a plain command.

    The result has `folder`, and what was `printed`. Tests read it and leave it as it is.
    """

    def run(*flags, narrowly: bool = False) -> SimpleNamespace:
        folder, printed = tmp_path_factory.mktemp("pretrained"), io.StringIO()
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(printed),
        ):
            patch.chdir(folder)
            patch.setenv("BYOL_CACHE", str(cache))
            if narrowly:
                narrow(patch)
            assert pretrain(*flags) == 0
        return SimpleNamespace(folder=folder, printed=printed.getvalue())

    return run


@pytest.fixture(scope="session")
def pretrained(pretrain_apart) -> SimpleNamespace:
    """The finished run of `tiny` (see `pretrain_apart`)."""
    return pretrain_apart()


@pytest.fixture(scope="session")
def narrow_run(pretrain_apart) -> SimpleNamespace:
    """The same with a narrow encoder."""
    return pretrain_apart(narrowly=True)
