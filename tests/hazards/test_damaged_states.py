"""A state of training that is cut or changed anywhere is found damaged."""

import pytest
import torch

from byol.errors import UserError
from byol.run import checkpoint

pytestmark = pytest.mark.hazard


def test_a_state_is_found_damaged_at_every_length_and_every_byte(tmp_path):
    content = {"model": {"w": torch.full((50,), 1.0)}, "optimizer": {}, "scaler": {}}
    content |= {"step": 1, "config": {}, "data_fingerprint": "0"}
    checkpoint.save_state(tmp_path, content)
    path = tmp_path / "last.pt"
    whole = path.read_bytes()
    assert checkpoint.load(path, checkpoint.TRAINING)["step"] == 1
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"last\.pt"):
            checkpoint.load(path, checkpoint.TRAINING)
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
        with pytest.raises(UserError, match=r"last\.pt"):
            checkpoint.load(path, checkpoint.TRAINING)
