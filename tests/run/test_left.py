"""What a run left in its folder is read again."""

import json
from pathlib import Path

import pytest

from byol.config import ClassifierConfig, PretrainConfig
from byol.errors import UserError
from byol.run.folder import lock_run_folder
from byol.run.left import goes_on, read_config, read_json


def write_settings(folder: Path, **settings) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


def test_settings_are_read_and_those_of_earlier_versions_have_their_names_of_today(tmp_path):
    settings = {"epochs": 7, "taps": ["layer1.0", "layer3.0"], "first_size": 32}
    config = read_config(write_settings(tmp_path, **settings), PretrainConfig)
    assert (config.epochs, config.labels, config.view_side) == (7, 250, 32)
    assert config.inner_blocks == ["layer1.0", "layer3.0"]
    with pytest.raises(UserError, match="loss_weights"):  # three of them, for two blocks
        read_config(write_settings(tmp_path, inner_grids=[2], taps=["layer1.0"]), PretrainConfig)
    config = read_config(write_settings(tmp_path, freeze=True, epochs=3), ClassifierConfig)
    assert (config.freeze, config.folds, config.epochs) == (True, 0, 3)


@pytest.mark.parametrize(
    ("text", "told"),
    [("{", "damaged"), ("[1]", "damaged"), ('{"epochs": "x"}', "epochs"),
     ('{"epochs": 0}', "damaged"), ("[" * 10_000, "damaged"), ('{"data": 3}', "data")],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(tmp_path, text, told):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=told):
        read_config(tmp_path, PretrainConfig)
    with pytest.raises(UserError, match="there is no"):
        read_json(tmp_path / "none.json")


def test_a_run_goes_on_as_long_as_its_process_holds_the_lock(tmp_path):
    assert not goes_on(tmp_path)
    lock = lock_run_folder(tmp_path)
    assert goes_on(tmp_path)
    lock.close()
    assert not goes_on(tmp_path)
    lock_run_folder(tmp_path).close()  # looking did not lock it
