"""What a run of train_classifier.py is: its settings, and how it is known again in its folder."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from byol import checkpoint
from byol.config import ClassifierConfig, check, inherit
from byol.errors import UserError
from byol.run_folder import check_same_settings

# what a checkpoint decides
FROM_CHECKPOINT = ("arch", "stem", "image_size", "mean", "std")
# what says nothing about a run's result, given fingerprints of the weights and of the images
NO_IDENTITY = {
    *("init", "data", "run_dir", "runs", "seeds"),
    *("deterministic", "save_every", "resume", "overwrite"),
}


def identity(config: ClassifierConfig, source: dict | None, photos) -> dict:
    """All that decides the result of a run: settings, weights that it starts from, images."""
    settings = dataclasses.asdict(config)
    return {
        **{key: value for key, value in settings.items() if key not in NO_IDENTITY},
        "weights": checkpoint.fingerprint(source["encoder"]) if source else "random",
        "images": photos.fingerprint,
    }


def finished(run_dir: Path, run: dict) -> dict | None:
    """The summary of the run in this folder, if it is this one (see `identity`) and finished."""
    try:
        summary = json.loads((run_dir / "summary.json").read_text(encoding="utf-8"))
        whole = summary["run"] == run and 0 <= summary["test_accuracy"] <= 1
        return summary if whole else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def holds_another(run_dir: Path, run: dict) -> bool:
    """Whether the folder holds a finished run that is not this one (see `identity`)."""
    return (run_dir / "summary.json").exists() and not finished(run_dir, run)


def can_go_on(run_dir: Path, run: dict) -> bool:
    """Whether the folder holds a state of this run (see `identity`)."""
    try:
        check_same_settings(
            checkpoint.load_state(run_dir)["config"], run, NO_IDENTITY, set(), run_dir
        )
    except UserError:
        return False
    return True


def take_settings(config: ClassifierConfig, source: dict, flags: set[str]) -> None:
    """Put the checkpoint's settings into `config`.

    Raises `UserError` where a flag contradicts them, or where they are not possible.
    """
    for key in FROM_CHECKPOINT:
        if key in flags and getattr(config, key) != source[key]:
            raise UserError(
                f"--{key.replace('_', '-')} {getattr(config, key)}: {config.init} was trained "
                f"with {source[key]}; leave the option out"
            )
        inherit(config, key, source[key], config.init)
    before = source["config"]
    inherited = ("store_size", "taps", "tap_grid")
    if "data" not in flags or config.data == before["data"]:
        inherited += ("data", "labels", "holdout", "split_seed")
    for key in inherited:
        # older checkpoints lack some; 0 labels are for pretraining alone
        if key not in flags and key in before and (key, before[key]) != ("labels", 0):
            inherit(config, key, before[key], config.init)
    try:
        check(config)
    except UserError as error:
        raise UserError(f"with the settings of {config.init}: {error}") from None
