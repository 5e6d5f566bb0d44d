"""The weights that a training begins with (`--init`): random, torchvision's, or those of a file."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor
from torchvision.models import get_model_weights

from byol.encoder import ARCHITECTURES, STEMS, Encoder
from byol.errors import UserError, first_line, printable
from byol.run import checkpoint
from byol.run.checkpoint import FROM_PRETRAINED

COUNTER = "num_batches_tracked"  # of BatchNorm; older files lack it


def read_start(config) -> dict | None:
    """Read what `config.init` names as the checkpoint of an encoder; None is for random weights.

    A file of this project brings its own settings. Other weights have an empty `config`, and arch,
    stem, image size and normalisation are those of `config`, which the weights must fit. Raises
    `UserError` for weights that cannot be had, do not fit, or are not finite.
    """
    if config.init == "random":
        return None
    if config.init == "imagenet":
        weights = download(config.arch)
    else:
        content = checkpoint.read(config.init)
        if isinstance(content, dict) and content.get("kind") in checkpoint.KINDS:
            return checkpoint.load_pretrained(config.init)
        weights = find_weights(content, name_of(config.init))
    about = {key: getattr(config, key) for key in FROM_PRETRAINED}
    weights = fit(weights, config.arch, config.stem, name_of(config.init))
    return {"encoder": weights, **about, "config": {}, "data_fingerprint": ""}


def read_fitting_start(config) -> dict | None:
    """Read what `config.init` names, as `read_start` does; also a file of this project must fit."""
    start = read_start(config)
    if start:
        fit(start["encoder"], config.arch, config.stem, name_of(config.init))
    return start


def name_of(init: str) -> str:
    return "torchvision's ImageNet weights" if init == "imagenet" else printable(init)


def download(arch: str) -> dict[str, Tensor]:
    """Get torchvision's newest ImageNet weights, from its folder or from its server.

    Raises `UserError` that says which file belongs where.
    """
    weights = get_model_weights(arch).DEFAULT
    path = imagenet_file(arch)
    options = {"map_location": "cpu", "weights_only": True, "check_hash": True}
    try:
        return weights.get_state_dict(progress=sys.stderr.isatty(), **options)
    except Exception as error:
        if path.exists():
            raise UserError(
                f"--init imagenet: {path} cannot be read: remove it, and it is downloaded anew"
            ) from None
        raise UserError(
            f"--init imagenet: torchvision could not download its weights ({first_line(error)}); "
            f"put {weights.url} at {path}"
        ) from None


def imagenet_file(arch: str) -> Path:
    """Name the file in which torchvision keeps the weights that it downloaded."""
    name = Path(get_model_weights(arch).DEFAULT.url).name
    return Path(torch.hub.get_dir(), "checkpoints", name)


def find_weights(content: object, name: str) -> dict[str, Tensor]:
    """Find a state dict in a file's content: all of it, or what is under `state_dict` or `model`.

    Takes a leading `module.` off the names. Raises `UserError` if there is none.
    """
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not (
        isinstance(content, dict)
        and content
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())
    ):
        raise UserError(
            f"--init: {name} holds no weights of a ResNet; give byol.pt, or a state dict of "
            "torchvision's ResNet"
        )
    return {key.removeprefix("module."): value for key, value in content.items()}


def fit(weights: dict[str, Tensor], arch: str, stem: str, name: str) -> dict[str, Tensor]:
    """Give `weights` as an encoder of `arch` and `stem` has them: float32, without `fc`.

    Raises `UserError` that names what does not fit, or the `--arch` and `--stem` that do.
    """
    weights = {key: value for key, value in weights.items() if not key.startswith("fc.")}
    problem = misfit(weights, arch, stem)
    if problem:
        for other in ((a, s) for a in ARCHITECTURES for s in STEMS):
            if not misfit(weights, *other):
                flags = f"--arch {other[0]} --stem {other[1]}"
                raise UserError(
                    f"--init: {name} is a {other[0]} with the {other[1]} stem, not a {arch} with "
                    f"the {stem} stem; give {flags}"
                )
        raise UserError(
            f"--init: {name} is no {arch} with the {stem} stem: {problem}; give weights of "
            f"torchvision's {', '.join(ARCHITECTURES)}, with their --arch"
        )
    fitting = {}
    for key in expected_shapes(arch, stem):
        value = weights[key] if key in weights else torch.tensor(0)
        fitting[key] = value.long() if key.endswith(COUNTER) else value.detach().float()
    if not all(bool(value.isfinite().all()) for value in fitting.values()):
        raise UserError(f"--init: {name} holds weights that are not finite numbers; give another")
    return fitting


def misfit(weights: dict[str, Tensor], arch: str, stem: str) -> str:
    """Say what keeps `weights` from being an encoder's; nothing if they are."""
    expected = expected_shapes(arch, stem)
    missing = [key for key in expected if key not in weights and not key.endswith(COUNTER)]
    if missing:
        return f"it lacks {missing[0]}" + others(missing)
    unknown = [key for key in weights if key not in expected]
    if unknown:
        return f"it holds {printable(unknown[0])}" + others(unknown)
    for key, value in weights.items():
        if tuple(value.shape) != expected[key]:
            return f"its {key} has the shape {tuple(value.shape)} in place of {expected[key]}"
        dense = value.device.type == "cpu" and value.layout is torch.strided
        if not dense or not (value.is_floating_point() or key.endswith(COUNTER)):
            return f"its {key} holds no plain floating-point numbers"
    return ""


def others(keys: list[str]) -> str:
    return f" and {len(keys) - 1} more" if len(keys) > 1 else ""


def expected_shapes(arch: str, stem: str) -> dict[str, tuple[int, ...]]:
    """Give name and shape of each weight of an encoder, without making its weights."""
    with torch.device("meta"):
        return {k: tuple(v.shape) for k, v in Encoder(arch, stem).state_dict().items()}
