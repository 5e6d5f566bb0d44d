"""Checkpoints: whole or not at all, and nothing in them can run."""

import pickle

import pytest
import torch

from byol import checkpoint
from byol.encoder import Encoder
from byol.errors import UserError


def encoder_content():
    weights = checkpoint.encoder_weights(Encoder())
    about = {"arch": "resnet18", "stem": "imagenet", "image_size": 64, "data_fingerprint": "0"}
    config = {"data": "photos", "store_size": None, "labels": 250, "holdout": 0, "split_seed": 0,
              "epochs": 3}  # fmt: skip
    return {"encoder": weights, **about, "mean": [0.5] * 3, "std": [0.2] * 3, "config": config}


def test_round_trip(tmp_path):
    content = encoder_content()
    checkpoint.save(tmp_path / "a.pt", checkpoint.ENCODER, content)
    read = checkpoint.load(tmp_path / "a.pt", checkpoint.ENCODER)
    encoder = checkpoint.load_encoder(read, "a.pt")
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, content["encoder"][key])
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


def test_code_in_a_checkpoint_does_not_run(tmp_path):
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (open, (str(marker), "w"))

    torch.save({"kind": checkpoint.ENCODER, "x": Evil()}, tmp_path / "evil.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Evil()))
    for name in ("evil.pt", "raw.pt"):
        with pytest.raises(UserError, match=name):
            checkpoint.load(tmp_path / name, checkpoint.ENCODER)
    assert not marker.exists()


def test_missing_damaged_and_foreign_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"no checkpoint .*none\.pt"):
        checkpoint.load(tmp_path / "none.pt", checkpoint.ENCODER)
    checkpoint.save(tmp_path / "a.pt", checkpoint.ENCODER, encoder_content())
    whole = (tmp_path / "a.pt").read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.pt").write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"cut\.pt"):
            checkpoint.load(tmp_path / "cut.pt", checkpoint.ENCODER)
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(UserError, match=r"text\.pt"):
        checkpoint.load(tmp_path / "text.pt", checkpoint.ENCODER)
    with pytest.raises(UserError, match="state of training"):
        checkpoint.load(tmp_path / "a.pt", checkpoint.TRAINING)
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(UserError, match="not a checkpoint of this project"):
        checkpoint.load(tmp_path / "other.pt", checkpoint.ENCODER)


@pytest.mark.parametrize("key", ["encoder", "mean", "config"])
def test_a_checkpoint_that_lacks_something_says_what(tmp_path, key):
    content = encoder_content()
    del content[key]
    checkpoint.save(tmp_path / "a.pt", checkpoint.ENCODER, content)
    with pytest.raises(UserError, match=rf"a\.pt is incomplete: it lacks {key};"):
        checkpoint.load(tmp_path / "a.pt", checkpoint.ENCODER)


def test_an_encoder_with_missing_weights_is_refused():
    content = encoder_content()
    del content["encoder"]["conv1.weight"]
    with pytest.raises(UserError, match="incomplete"):
        checkpoint.load_encoder(content, "a.pt")


def test_a_target_that_cannot_be_written_is_found_before_training(tmp_path):
    with pytest.raises(UserError, match="is a folder"):
        checkpoint.check_writable(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        checkpoint.check_writable(tmp_path / "file" / "byol.pt")
