"""Settings: dataclass defaults < a TOML file < flags. Each field is a key and a flag.

A TOML file holds differences only. Keys at its top are read by every script that has them;
`[pretrain]` and `[classifier]` hold what belongs to one script. A flag for another optimizer than
that of the file brings its own default rate and weight decay, one for another recipe takes that as
it is, and one for another image size has all views of that size.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import math
import tomllib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path

from byol.augment import RECIPES
from byol.encoder import ARCHITECTURES, STEMS
from byol.errors import UserError
from byol.optim import DEFAULTS as OPTIMIZERS

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
MAX_SEED = 2**63 - 1
AMP = ("auto", "bf16", "fp16", "off")
LOSSES = ("classic", "multi")
BELONGING = {  # a flag for another one than the file's leaves out what the file says of these
    "optimizer": ("lr", "weight_decay"),
    "image_size": ("view_size",),
    "recipe": ("crop_min", "jitter_strength", "grayscale", "solarize"),
}
PLACES = ("auto", "host", "device")
FEATURES = ("avgpool", "combined")


def option(default, help: str, *, choices=None, low=None, high=None, none="none"):
    """A dataclass field with its help line and its limits (inclusive), also of a list's items.

    `none` is the word that stands for None, where the field may be None.
    """
    metadata = {"help": help, "choices": choices, "low": low, "high": high, "none": none}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def _each_default(which: int) -> str:
    """The base rate (0) or the weight decay (1) of each optimizer."""
    return ", ".join(f"{name} {values[which]:g}" for name, values in OPTIMIZERS.items())


@dataclass
class Shared:
    """What both training scripts need to agree on."""

    data: str = option("cats-vs-dogs", "cats-vs-dogs, cifar10, cartoons, a folder or an archive")
    image_size: int = option(150, "side of the network's input in pixels", low=8, high=1024)
    store_size: int | None = option(
        None, "side of the stored photos (default: 1.2 x image size)", low=8, high=2048
    )
    labels: int | None = option(
        250, "labelled images, balanced over the classes, or all", low=0, none="all"
    )
    holdout: int = option(0, "images that neither script ever trains on", low=0)
    split_seed: int = option(0, "which images are labelled and held out", low=0, high=MAX_SEED)
    arch: str = option("resnet18", "encoder", choices=tuple(ARCHITECTURES))
    stem: str = option("imagenet", "first layers of the encoder", choices=STEMS)
    taps: list[str] = option(
        ["layer3.0", "layer2.0"], "inner blocks, for --losses multi and --features combined"
    )
    tap_grid: list[int] = option(
        [2, 4], "side of the grid that the map of each tap is averaged to", low=1
    )
    mean: list[float] = option([0.485, 0.456, 0.406], "normalisation: mean of R, G, B in 0..1")
    std: list[float] = option([0.229, 0.224, 0.225], "normalisation: deviation of R, G, B")
    seed: int = option(0, "weights, order of images and augmentations", low=0, high=MAX_SEED)
    device: str = option("auto", "auto, cpu, cuda or cuda:N")
    amp: str = option("auto", "mixed precision", choices=AMP)
    deterministic: bool = option(False, "have CUDA repeat a run to the bit, which is slower")

    @property
    def stored_side(self) -> int:
        """Side of the stored photos: `store_size`, else 1.2 x image size up to a multiple of 4."""
        return self.store_size or -(-self.image_size * 12 // 40) * 4

    @property
    def grids(self) -> dict[str, int]:
        """The grid of each tap. Raises `UserError` where taps and grids do not pair up."""
        if not self.taps or len(set(self.taps)) < len(self.taps):
            raise UserError(f"taps {' '.join(self.taps)}: name one block or more, each once")
        if len(self.taps) != len(self.tap_grid):
            raise UserError(
                f"tap_grid {' '.join(map(str, self.tap_grid))}: give one number for each of the "
                f"taps {' '.join(self.taps)}"
            )
        return dict(zip(self.taps, self.tap_grid, strict=True))


@dataclass
class PretrainConfig(Shared):
    """`train_byol.py`."""

    section: typing.ClassVar[str] = "pretrain"

    recipe: str = option("photos", "augmentations of the two views", choices=tuple(RECIPES))
    crop_min: float | None = option(
        None, "least part of a photo that a view shows (default: the recipe's)", low=0.01, high=1
    )
    jitter_strength: float = option(
        1.0, "of the colour jitter: factor of the recipe's ranges", low=0, high=5
    )
    grayscale: float | None = option(
        None, "part of the views without colour (default: the recipe's)", low=0, high=1
    )
    solarize: float | None = option(
        None, "part of the second views that is solarized (default: the recipe's)", low=0, high=1
    )
    epochs: int = option(300, "passes over the unlabelled images", low=1)
    view_size: int | None = option(
        None, "side of the views in pretraining (default: image size)", low=8, high=1024
    )
    batch_size: int = option(256, "images per optimizer step", low=2)
    accumulate: int = option(1, "pieces that a batch is split into, to save memory", low=1)
    optimizer: str = option("sgd", "optimizer", choices=tuple(OPTIMIZERS))
    lr: float | None = option(
        None, f"base rate, times batch / 256 (default: {_each_default(0)})", low=0
    )
    weight_decay: float | None = option(None, f"weight decay (default: {_each_default(1)})", low=0)
    warmup_epochs: float = option(10.0, "epochs of linear warm-up", low=0)
    tau0: float = option(0.99, "tau of the target's moving average at the start", low=0, high=1)
    losses: str = option(
        "classic", "on the representation alone, or on inner blocks as well", choices=LOSSES
    )
    loss_weights: list[float] = option(
        [1.0, 1.0, 1.0], "of --losses multi: the representation's, then one for each tap", low=0
    )
    hidden_dim: int = option(4096, "hidden width of projector and predictor", low=1)
    projection_dim: int = option(256, "output width of projector and predictor", low=2)
    photos_in: str = option(
        "auto",
        "memory for the packed photos; auto: a GPU's, up to half of what is free",
        choices=PLACES,
    )
    cuda_graph: bool = option(
        True, "on CUDA, where memory allows, record the networks' part of a step and replay it"
    )
    log_every: int = option(10, "steps between two lines of metrics.jsonl", low=1)
    save_every: float = option(
        60.0, "seconds at least from a checkpoint to the next, at an epoch's end", low=0
    )
    save_within: float = option(
        600.0, "seconds at most from a checkpoint to the next, also amid an epoch", low=0
    )
    run_dir: str = option("runs/byol", "folder for config, metrics and checkpoints")
    out: str = option("byol.pt", "file for the finished encoder")
    resume: bool = option(False, "go on from the last checkpoint of the run folder")
    overwrite: bool = option(False, "start anew in a run folder that holds a run")

    @property
    def base_lr(self) -> float:
        """`lr`, or the optimizer's own."""
        return OPTIMIZERS[self.optimizer][0] if self.lr is None else self.lr

    @property
    def decay(self) -> float:
        """`weight_decay`, or the optimizer's own."""
        return OPTIMIZERS[self.optimizer][1] if self.weight_decay is None else self.weight_decay


@dataclass
class ClassifierConfig(Shared):
    """`train_classifier.py`."""

    section: typing.ClassVar[str] = "classifier"

    init: str = option("random", "random, or a file that train_byol.py wrote")
    freeze: bool = option(False, "train the linear head alone on the frozen encoder")
    features: str = option(
        "avgpool",
        "what the head sees: the representation, or inner blocks as well",
        choices=FEATURES,
    )
    label_seed: int | None = option(
        None, "which images are labelled, apart from the holdout (default: split seed)", low=0
    )
    seeds: int = option(1, "runs, one for each of seed, seed + 1, ...", low=1)
    epochs: int = option(100, "passes over the labelled images", low=1)
    batch_size: int = option(50, "images per optimizer step", low=2)
    optimizer: str = option("adamw", "optimizer", choices=tuple(OPTIMIZERS))
    lr: float = option(1e-3, "peak learning rate of the full model", low=0)
    encoder_lr_scale: float = option(
        1.0, "rate of a pretrained encoder in the full model, as a multiple of lr", low=0
    )
    weight_decay: float = option(1e-2, "weight decay of the full model", low=0)
    frozen_lr: float = option(1e-2, "peak learning rate of a head on frozen features", low=0)
    frozen_weight_decay: float = option(1.0, "weight decay of a head on frozen features", low=0)
    warmup_epochs: float = option(5.0, "epochs of linear warm-up", low=0)
    save_every: float = option(60.0, "seconds from a checkpoint to the next", low=0)
    runs: str = option("runs", "folder that holds the run folders")
    run_dir: str | None = option(
        None,
        "run folder (default: below --runs, classifier-{random,byol}-{full,frozen}, then "
        "-combined and -seedN where they apply)",
    )
    resume: bool = option(False, "keep finished runs, and go on with a stopped one")
    overwrite: bool = option(False, "replace a stopped run, or a finished one of other settings")


def parse(config_class, argv: list[str] | None, default_file: str):
    """Defaults, then the TOML file of `--config`, then the flags of `argv` -> a checked config.

    Returns the config and the names of the fields that a flag set.

    Raises `UserError` for an unknown key or flag, a wrong type or an impossible value; the
    sentence names the key and the nearest valid one.
    """
    parser = Parser(allow_abbrev=False)
    of_project = f"TOML file [configs/{default_file}]"
    parser.add_argument("--config", default=str(CONFIGS / default_file), help=of_project)
    fields = {f.name: f for f in dataclasses.fields(config_class)}
    hints = typing.get_type_hints(config_class)
    for name, f in fields.items():
        flag = "--" + name.replace("_", "-")
        default = {"default": argparse.SUPPRESS, "help": _help(f)}
        if hints[name] is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, **default)
        elif typing.get_origin(hints[name]) is list:
            parser.add_argument(flag, nargs="+", **default)
        else:
            parser.add_argument(flag, **default)
    flags = vars(parser.parse_args(argv))
    path = Path(flags.pop("config"))

    values = {}
    for key, value in _read_toml(path, config_class).items():
        none = fields[key].metadata["none"]
        values[key] = _convert(value, hints[key], f"{key} in {path}", from_text=False, none=none)
    given = {}
    for key, text in flags.items():
        flag = "--" + key.replace("_", "-")
        none = fields[key].metadata["none"]
        given[key] = _convert(text, hints[key], flag, from_text=True, none=none)
    for choice, belonging in BELONGING.items():
        of_file = values.get(choice, getattr(config_class, choice, None))
        if given.get(choice, of_file) != of_file:
            for key in belonging:
                values.pop(key, None)
    config = config_class(**values | given)
    check(config)
    return config, set(flags)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are a `UserError`."""

    def error(self, message: str):
        if message.startswith("unrecognized arguments:"):
            given = message.split(":", 1)[1].split()[0]
            flags = [s for a in self._actions for s in a.option_strings if s.startswith("--")]
            raise UserError(f"there is no option {given}{_nearest(given.split('=')[0], flags)}")
        raise UserError(message)


def _help(f: dataclasses.Field) -> str:
    text = f.metadata["help"]
    if f.metadata["choices"]:
        text += " (" + ", ".join(f.metadata["choices"]) + ")"
    default = f.default_factory() if f.default is dataclasses.MISSING else f.default
    if isinstance(default, list):
        default = " ".join(map(str, default))
    if default is not None and default is not False:
        text += f" [{default}]"
    return text.replace("%", "%%")


def _nearest(word: str, words: typing.Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(words), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def load_toml(path: Path, flag: str = "", hint: str = "") -> dict:
    """What a TOML file holds. Raises `UserError`; without the file `hint` ends its sentence."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{flag}there is no file {path}{hint}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{flag}{path} cannot be read as TOML: {error}") from None


def _read_toml(path: Path, config_class) -> dict:
    """The file's top keys and those of this script's section, as far as this script has them."""
    known = ", ".join(sorted(p.stem for p in CONFIGS.glob("*.toml")))
    table = load_toml(path, "--config: ", f" (configs/ has {known})")
    classes = {c.section: c for c in (PretrainConfig, ClassifierConfig)}
    shared = {f.name for f in dataclasses.fields(Shared)}
    result = {}
    for key, value in table.items():
        if key in classes and isinstance(value, dict):
            own = {f.name for f in dataclasses.fields(classes[key])}
            for inner in value:
                if inner not in own:
                    near = _nearest(inner, own)
                    raise UserError(f"{path}: [{key}] has no key {inner!r}{near}")
            if key == config_class.section:
                result.update(value)
        elif key in shared:
            result[key] = value
        else:
            near = _nearest(key, shared | set(classes))
            raise UserError(f"{path}: there is no key {key!r} at the top{near}")
    return result


def _convert(value, hint, where: str, *, from_text: bool, none: str = ""):
    """`value` as the type of the field, or a `UserError` that names `where`."""
    or_none = ""
    if isinstance(hint, types.UnionType):  # X | None
        if value is None or (isinstance(value, str) and value.lower() == none):
            return None
        hint = next(t for t in typing.get_args(hint) if t is not type(None))
        or_none = f" or {none}"
    if typing.get_origin(hint) is list:
        inner = typing.get_args(hint)[0]
        if not isinstance(value, list):
            what = "texts" if inner is str else "numbers"
            raise UserError(f"{where} must be a list of {what}, not {value!r}")
        return [_convert(v, inner, where, from_text=from_text) for v in value]
    try:
        if from_text and hint in (int, float):
            return hint(value)
        if hint is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if type(value) is hint:
            return value
    except (ValueError, OverflowError):
        pass
    kinds = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    raise UserError(f"{where} must be {kinds[hint]}{or_none}, not {value!r}")


def inherit(config, key: str, value, path: str) -> None:
    """Put a setting that the file at `path` holds into `config`.

    Raises `UserError` where it has another type. `check` says whether its value is possible.
    """
    hint = typing.get_type_hints(type(config))[key]
    setattr(config, key, _convert(value, hint, f"{key} in {path}", from_text=False))


def check(config) -> None:
    """Raises `UserError` for a value that is out of its limits, or does not go with another."""
    for f in dataclasses.fields(config):
        name, limits = f.name, f.metadata
        value = getattr(config, name)
        if value is None:
            continue
        if limits["choices"] and value not in limits["choices"]:
            near = _nearest(value, limits["choices"])
            choices = ", ".join(limits["choices"])
            raise UserError(f"{name} must be one of {choices}, not {value!r}{near}")
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                raise UserError(f"{name} must be a finite number, not {number}")
            if isinstance(number, int) and number > MAX_SEED:
                raise UserError(f"{name} must be at most {MAX_SEED}, not a larger number")
            if limits["low"] is not None and number < limits["low"]:
                raise UserError(f"{name} must be at least {limits['low']}, not {number}")
            if limits["high"] is not None and number > limits["high"]:
                raise UserError(f"{name} must be at most {limits['high']}, not {number}")
    for name in ("mean", "std"):
        if len(getattr(config, name)) != 3:
            raise UserError(f"{name} must have three numbers, for R, G and B")
    if min(config.std) <= 0:
        raise UserError("std must be above 0 in each channel")
    if config.stored_side < config.image_size:
        raise UserError(
            f"store_size {config.store_size} is below image_size {config.image_size}: "
            "give at least the image size"
        )
    if not isinstance(config, PretrainConfig):
        return
    if config.view_size and config.view_size > config.stored_side:
        raise UserError(
            f"view_size {config.view_size} is above the stored photos' {config.stored_side}: "
            "lower it, or raise store_size"
        )
