"""What a run left in its folder: its settings, its encoder, and whether it still goes on."""

from __future__ import annotations

import dataclasses
import fcntl
import json
from pathlib import Path

from byol.config import (
    MAY_DIFFER_ON_RESUME,
    ClassifierConfig,
    PretrainConfig,
    check,
    inherit,
    modern_settings,
)
from byol.errors import UserError
from byol.run import checkpoint
from byol.run.folder import holds_a_run

Config = PretrainConfig | ClassifierConfig


def read_json(path: Path) -> dict:
    """Read the object in a JSON file. Raises `UserError` if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"there is no {path}") from None
    except (OSError, ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged")
    return content


def read_config(folder: Path, config_class: type[Config]) -> Config:
    """Read the settings of a run, also of one of an earlier version.

    Raises `UserError` if they are missing or not possible.
    """
    path, config = folder / "config.json", config_class()
    settings = modern_settings(read_json(path))
    for field in dataclasses.fields(config):
        if field.name in settings:
            inherit(config, field.name, settings[field.name], str(path))
    try:
        check(config)
    except UserError as error:
        raise UserError(f"{path} is damaged: {error}") from None
    return config


def read_trained(folder: Path) -> tuple[dict, Config]:
    """Read the encoder of a run as far as it is, and the settings of the run.

    Of pretraining it is in last.pt; if that was removed, in the file that the run wrote at its end.
    Of a finished classifier it is in classifier.pt. Returns the content of the checkpoint, with
    `data_fingerprint` of the photos. Raises `UserError` if there is none.
    """
    if (folder / "classifier.pt").is_file():
        content = checkpoint.load(folder / "classifier.pt", checkpoint.CLASSIFIER)
        run = read_json(folder / "summary.json").get("run")
        photos = str(run.get("images")) if isinstance(run, dict) else ""
        return {**content, "data_fingerprint": photos}, read_config(folder, ClassifierConfig)
    config = read_config(folder, PretrainConfig)
    if holds_a_run(folder):
        state = checkpoint.load_state(folder)
        if "hidden_dim" not in state["config"]:
            raise UserError(f"{folder} holds a classifier that is in training")
        return checkpoint.encoder_of_state(state), config
    if not Path(config.out).is_file():
        raise UserError(f"there is no encoder yet: no last.pt in {folder}, and no {config.out}")
    content = checkpoint.load(config.out, checkpoint.ENCODER)
    now, then = dataclasses.asdict(config), content["config"]
    if any(then.get(key) != now[key] for key in now.keys() - MAY_DIFFER_ON_RESUME):
        raise UserError(f"there is no last.pt in {folder}, and {config.out} is of another run")
    return content, config


def goes_on(folder: Path) -> bool:
    """Tell whether a process trains in this folder now, by its lock (see `lock_run_folder`)."""
    try:
        with open(folder / "run.lock", "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no lock, or a file system without locks
        pass
    return False
