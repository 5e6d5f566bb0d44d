"""Checkpoints: dicts of plain types and tensors, written whole or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import sys
from pathlib import Path

import torch
from torch import nn

from byol.config import modern_settings
from byol.encoder import Encoder
from byol.errors import UserError, printable
from byol.files import check_seal, reads_back, seal, write_atomically
from byol.run.folder import LAST, PREVIOUS, make_folder

KINDS = ENCODER, TRAINING, CLASSIFIER = "byol-encoder", "byol-training", "byol-classifier"
_KEYS = {
    ENCODER: {"encoder", "arch", "stem", "image_size", "mean", "std", "config", "data_fingerprint"},
    TRAINING: {"model", "optimizer", "scaler", "step", "config", "data_fingerprint"},
    CLASSIFIER: {"encoder", "head", "classes", "arch", "stem", "image_size", "mean", "std"},
}
# what an encoder's file decides for those who use it
FROM_PRETRAINED = ("arch", "stem", "image_size", "mean", "std", "channels")
# the settings of pretraining that they need
_SETTINGS = {"data", "store_size", "labels", "holdout", "split_seed", "epochs"}
_WRITTEN_BY = {
    ENCODER: "an encoder that train_byol.py wrote at the end of a run (byol.pt)",
    TRAINING: "a state of training (last.pt of a run folder)",
    CLASSIFIER: "a classifier that train_classifier.py wrote",
}


def check_writable(path: str | Path) -> None:
    """Raise `UserError` if a file could not be written at `path`: better now than at the end."""
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the name of a file to write")
    make_folder(path.parent, f"{path}")


def save(path: str | Path, kind: str, content: dict) -> None:
    """Save `content` (plain types and tensors) as a checkpoint of the given kind."""
    buffer = io.BytesIO()
    torch.save({"kind": kind, **content}, buffer)
    write_atomically(path, buffer.getbuffer())


def save_state(run_dir: Path, content: dict) -> None:
    """Save a state of training as last.pt, sealed; the one before is kept until it reads back.

    Raises `UserError` if it does not read back, and `OSError`.
    """
    last, previous = run_dir / LAST, run_dir / PREVIOUS
    buffer = io.BytesIO()
    torch.save({"kind": TRAINING, "sealed": True, **content}, buffer)
    buffer.write(seal(buffer.getbuffer()))
    # a previous.pt that is still there is good, and last.pt may not be
    write_atomically(last, buffer.getbuffer(), keep=None if previous.exists() else previous)
    if not reads_back(last, buffer.getbuffer()):
        kept = f"{previous} is kept" if previous.exists() else "there is no earlier one"
        raise UserError(
            f"{last} does not read back as it was written, and {kept}: check the disk, then go on "
            "with --resume"
        )
    previous.unlink(missing_ok=True)


def load_state(run_dir: Path) -> dict:
    """Read the last state of training, or the one before, with a warning, if it is damaged or gone.

    Raises `UserError` if neither can be read.
    """
    last, previous = run_dir / LAST, run_dir / PREVIOUS
    try:
        return load(last, TRAINING)
    except UserError as error:
        if not previous.is_file():
            raise
        problem = f"{last} is damaged" if last.is_file() else f"there is no {last}"
        try:
            content = load(previous, TRAINING)
        except UserError:
            raise UserError(
                f"--resume: {problem}, and {previous} is damaged as well; start anew with "
                "--overwrite in place of --resume"
            ) from error
    print(f"{problem}: going on from {previous}, step {content['step']:,}", file=sys.stderr)
    return content


def read(path: str | Path) -> object:
    """Read what torch.save wrote onto the CPU. No code in the file can run.

    Raises `UserError` for a file that is missing, damaged, or holds code.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}; train_byol.py writes one")
    whole, content = None, None
    try:
        whole = check_seal(path)
        if whole is not False:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = "it is damaged; give another"
        if "GLOBAL" in str(error):
            reason = "it holds more than weights; give another, or its state dict alone"
        raise UserError(f"{path} cannot be read as a checkpoint: {reason}") from None
    # a state of training is sealed, but for those of earlier versions
    if whole is False or (whole is None and isinstance(content, dict) and content.get("sealed")):
        raise UserError(f"{path} cannot be read as a checkpoint: it is damaged; give another")
    return content


def load(path: str | Path, kind: str) -> dict:
    """Read a checkpoint of the given kind onto the CPU. No code in the file can run.

    Raises `UserError` for a file that is missing, damaged, holds code, or is of another kind.
    """
    path, content = Path(path), read(path)
    found = content.get("kind") if isinstance(content, dict) else None
    if found != kind:
        what = _WRITTEN_BY.get(found, "not a checkpoint of this project")
        raise UserError(f"{path} is {what}; this needs {_WRITTEN_BY[kind]}")
    missing = _KEYS[kind] - content.keys()
    if kind == ENCODER and not missing:
        settings = content["config"]
        missing = _SETTINGS - settings.keys() if isinstance(settings, dict) else {"config"}
    if missing:
        lacks = ", ".join(sorted(missing))
        raise UserError(f"{path} is incomplete: it lacks {lacks}; give another")
    return _modernise(content, kind, path)


def kind_of(path: str | Path) -> str | None:
    """Tell what a file is: `ENCODER`, `TRAINING` or `CLASSIFIER`; None for any other."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # whatever is wrong: `load` says it
        return None
    return content.get("kind") if isinstance(content, dict) else None


def _modernise(content: dict, kind: str, path: Path) -> dict:
    """Give a checkpoint of an earlier version the keys of today. All that is known of them is here.

    Raises `UserError` for a state that cannot go on: training on views of two sizes is gone.
    """
    if kind != TRAINING:
        content = {"channels": "colour", **content}
    settings = content.get("config")
    if not isinstance(settings, dict):
        return content
    if kind == TRAINING and settings.get("first_size") and settings.get("first_epochs") is not None:
        raise UserError(
            f"{path} is of an earlier version, and trains on views of two sizes in turn, which is "
            "gone; start anew in another --run-dir"
        )
    content = {**content, "config": modern_settings(settings)}
    if kind == TRAINING:  # they began with random weights, and left targets as they were
        then = {"weights": "random", "head_epochs": 1.0, "whitening": 0.0}
        content["config"] = {**then, **content["config"]}
    if kind == TRAINING and "log" not in content:
        kept = ("results", "seconds", "history")
        content["log"] = {key: content.pop(key) for key in kept if key in content}
        if content["scaler"] and "skipped" in content:
            content["scaler"] = {**content["scaler"], "skipped": content["skipped"]}
    if kind == CLASSIFIER:
        content.setdefault("inner_blocks", content.pop("taps", {}))
    return content


def save_encoder(
    path: str | Path,
    encoder: Encoder,
    config,
    step: int,
    fingerprint: str,
    run: str = "",
    init_weights: str = "random",
    label_digest: str = "",
) -> None:
    """Write the encoder for its readers, with what they need to know of its training.

    config: a `PretrainConfig`. step: how many steps it took. fingerprint: of the photos. run: the
    name of the run. init_weights: the fingerprint of the weights that it began with. label_digest:
    of the labels of the photos.
    """
    shared = {key: getattr(config, key) for key in FROM_PRETRAINED}
    content = {
        "encoder": encoder_weights(encoder),
        **shared,
        "config": dataclasses.asdict(config),
        "step": step,
        "data_fingerprint": fingerprint,
        "run": run,
        "init_weights": init_weights,
        "label_digest": label_digest,
    }
    save(path, ENCODER, content)


def written_by(path: Path) -> str:
    """Name the run that wrote an encoder; for any other file, something that no run is called."""
    try:
        return str(load(path, ENCODER).get("run", f"of earlier versions, {path}"))
    except UserError:
        return f"unknown, {path}"


def load_pretrained(path: str | Path) -> dict:
    """Read an encoder; from a state of training (last.pt), the encoder of the unfinished run.

    Then a line on stderr says how far it was. Raises `UserError` as `load` does.
    """
    try:
        return load(path, ENCODER)
    except UserError:
        try:
            state = load(path, TRAINING)
        except UserError:
            state = {}
        if "hidden_dim" not in state.get("config", {}):  # not a state of pretraining
            raise
    print(
        f"{printable(str(path))} is of a run that is not finished (step {state['step']:,}): its "
        "encoder may become better",
        file=sys.stderr,
    )
    return encoder_of_state(state)


def encoder_of_state(state: dict) -> dict:
    """Take the encoder out of a state of pretraining, as a checkpoint of its own kind."""
    config, step = dict(state["config"]), state["step"]
    init_weights = config.pop("weights")
    weights = {
        name.removeprefix("encoder."): value
        for name, value in state["model"].items()
        if name.startswith("encoder.")
    }
    shared = {key: config[key] for key in FROM_PRETRAINED}
    about = {"config": config, "step": step, "data_fingerprint": state["data_fingerprint"]}
    about["init_weights"] = init_weights
    return {"kind": ENCODER, "encoder": weights, **shared, **about}


def load_any(path: str | Path) -> dict:
    """Read what holds an encoder: `byol.pt`, `last.pt` or `classifier.pt`.

    Raises `UserError` for anything else, as `load` does.
    """
    return load(path, CLASSIFIER) if kind_of(path) == CLASSIFIER else load_pretrained(path)


def encoder_weights(encoder: Encoder) -> dict[str, torch.Tensor]:
    """Copy the encoder's state to the CPU, under the names of torchvision's ResNet."""
    return {k: v.detach().cpu().contiguous().clone() for k, v in encoder.state_dict().items()}


def load_encoder(content: dict, path: str | Path) -> Encoder:
    """Build the encoder of a checkpoint. Raises `UserError` if it is damaged."""
    try:
        encoder = Encoder(content["arch"], content["stem"])
        encoder.load_state_dict(content["encoder"], strict=True)
    except (KeyError, RuntimeError, TypeError, AttributeError):
        raise UserError(f"{path} is incomplete: its encoder does not load; give another") from None
    if not all_finite(encoder):
        raise UserError(f"{path} holds weights that are not finite numbers; give another")
    return encoder


@torch.no_grad()
def all_finite(module: nn.Module) -> bool:
    """Tell whether all parameters and buffers are finite numbers."""
    return bool(torch.stack([v.isfinite().all() for v in module.state_dict().values()]).all())


def fingerprint_of(weights: dict[str, torch.Tensor]) -> str:
    """Hash names, types, shapes and values: the same for the same weights in any file."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def start_fingerprint(start: dict | None) -> str:
    """Identify the weights that a run begins with: those of a checkpoint, or random ones."""
    return fingerprint_of(start["encoder"]) if start else "random"


def head_weights(head: nn.Linear) -> dict[str, torch.Tensor]:
    """Copy weight (classes, dim) and bias (classes,) of a linear head to the CPU."""
    return {k: v.detach().cpu().clone() for k, v in head.state_dict().items()}
