"""Checkpoints: whole or not at all, and nothing in them can run."""

import binascii
import pickle

import pytest
import torch
from torch import nn

from byol.encoder import Encoder
from byol.errors import UserError
from byol.run import checkpoint


def encoder_content(encoder=None):
    """What a file of an encoder holds; without `encoder` its weights are none that load."""
    weights = checkpoint.encoder_weights(encoder or nn.Linear(2, 2))
    about = {"arch": "resnet18", "stem": "imagenet", "image_size": 64, "data_fingerprint": "0"}
    config = {"data": "photos", "store_size": None, "labels": 250, "holdout": 0, "split_seed": 0,
              "epochs": 3}  # fmt: skip
    return {"encoder": weights, **about, "mean": [0.5] * 3, "std": [0.2] * 3, "config": config}


def test_round_trip(tmp_path):
    content = encoder_content(Encoder())
    checkpoint.save(tmp_path / "a.pt", checkpoint.ENCODER, content)
    read = checkpoint.load(tmp_path / "a.pt", checkpoint.ENCODER)
    encoder = checkpoint.load_encoder(read, "a.pt")
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, content["encoder"][key])
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


def training_content(step):
    content = {"model": {"w": torch.full((50,), float(step))}, "optimizer": {}, "scaler": {}}
    return {**content, "step": step, "config": {}, "data_fingerprint": "0"}


def test_a_state_is_found_damaged_at_any_length_and_any_byte(tmp_path):
    """At some of them; tests/hazards/test_damaged_states.py has all."""
    checkpoint.save_state(tmp_path, training_content(1))
    path = tmp_path / "last.pt"
    whole = path.read_bytes()
    assert torch.load(path, weights_only=True)["step"] == 1  # plain torch reads it
    body = whole[: whole.index(b"\nbyol: CRC-32")]
    assert int(whole[-8:], 16) == binascii.crc32(body)
    assert checkpoint.load(path, checkpoint.TRAINING)["step"] == 1
    for length in (0, 1, *range(8, len(whole), 199), *range(len(whole) - 9, len(whole))):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"last\.pt"):
            checkpoint.load(path, checkpoint.TRAINING)
    for at in (0, *range(8, len(whole), 199), *range(len(whole) - 9, len(whole))):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
        with pytest.raises(UserError, match=r"last\.pt"):
            checkpoint.load(path, checkpoint.TRAINING)
    path.write_bytes(whole + b"x")
    with pytest.raises(UserError, match=r"last\.pt"):
        checkpoint.load(path, checkpoint.TRAINING)


def test_a_state_of_an_earlier_version_has_no_seal(tmp_path):
    torch.save({"kind": checkpoint.TRAINING, **training_content(4)}, tmp_path / "last.pt")
    assert checkpoint.load_state(tmp_path)["step"] == 4


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_the_state_before_is_kept_until_the_new_one_reads_back(
    tmp_path, monkeypatch, capsys, damage
):
    checkpoint.save_state(tmp_path, training_content(1))
    checkpoint.save_state(tmp_path, training_content(2))
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "reads_back", lambda *_: False)
        with pytest.raises(UserError, match=r"last\.pt does not read back.*previous\.pt is kept"):
            checkpoint.save_state(tmp_path, training_content(3))
    last, previous = tmp_path / "last.pt", tmp_path / "previous.pt"
    assert torch.load(previous, weights_only=True)["step"] == 2
    assert checkpoint.load_state(tmp_path)["step"] == 3  # it was good all the same
    assert capsys.readouterr().err == ""

    last.unlink() if damage == "gone" else last.write_bytes(last.read_bytes()[:-1])
    assert checkpoint.load_state(tmp_path)["step"] == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "last.pt" in line
    assert "previous.pt, step 2" in line

    def killed(path, blob):
        assert checkpoint.load(previous, checkpoint.TRAINING)["step"] == 2  # not the damaged one
        return reads_back(path, blob)

    reads_back = checkpoint.reads_back
    monkeypatch.setattr(checkpoint, "reads_back", killed)
    checkpoint.save_state(tmp_path, training_content(5))
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]
    assert checkpoint.load_state(tmp_path)["step"] == 5


def test_two_damaged_states_are_one_sentence(tmp_path, capsys):
    for name in ("last.pt", "previous.pt"):
        (tmp_path / name).write_bytes(b"junk")
    with pytest.raises(UserError, match=r"last\.pt is damaged, and .*previous\.pt is damaged"):
        checkpoint.load_state(tmp_path)
    assert capsys.readouterr().err == ""


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
    content = encoder_content(Encoder())
    del content["encoder"]["conv1.weight"]
    with pytest.raises(UserError, match="incomplete"):
        checkpoint.load_encoder(content, "a.pt")


def test_a_target_that_cannot_be_written_is_found_before_training(tmp_path):
    with pytest.raises(UserError, match="is a folder"):
        checkpoint.check_writable(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        checkpoint.check_writable(tmp_path / "file" / "byol.pt")
