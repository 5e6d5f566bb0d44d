"""Every setting: its default, its limits, its help line. The defaults are the shipped recipe.

A field of a class is a key of a TOML file and a flag of the script. What a class below says is
what `python train_byol.py` and `python train_classifier.py` do without any flag: Cats-vs-Dogs at
150 pixels on a GPU. The files in configs/ hold differences from it; `configs/paper.toml` has the
paper's settings. Why the recipe is as it is: docs/recipe.md.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from dataclasses import dataclass, field

from byol.encoder import ARCHITECTURES, AVGPOOL, STEMS
from byol.errors import UserError, nearest
from byol.hardware import distributed
from byol.optim import DEFAULTS as OPTIMIZERS
from byol.schedules import MixedSchedule, Schedule
from byol.views.recipes import CROP_AND_FLIP, RECIPES, View, adjust_recipe, in_grey

MAX_SEED = 2**63 - 1
AMP = ("auto", "bf16", "fp16", "off")
LOSSES = ("classic", "multi")
PLACES = ("auto", "host", "device")
REPRESENTATIONS = (AVGPOOL, "combined")
CHANNELS = ("colour", "grey")
PACKS = ("raw", "jpeg")
GROUPS = {  # of `--help-all`
    "data": "which photos, and which of them are labelled",
    "views": "what the network sees of a photo",
    "method": "networks and losses",
    "schedule": "how long, in which steps, at which rate",
    "hardware": "where and how it is computed; results agree up to rounding",
    "saving": "files and folders, stopping and going on",
}
DATA, LABELS = "cats-vs-dogs", 250  # the default photos, and how many of them are labelled
COMMON = {  # what `--help` shows
    *("data", "labelled", "labels", "image_size", "recipe", "init", "freeze", "representation"),
    *("epochs", "batch_size", "seeds", "device", "run_dir", "runs", "out", "resume", "overwrite"),
}
# If one of these is set, the defaults of what belongs to it no longer fit. They become these.
BELONGING = {
    "data": {"labels": lambda data: LABELS if data == DATA else None},  # all that are there
    "optimizer": {"lr": None, "weight_decay": None},  # the optimizer's own
    "image_size": {"view_size": None},  # the image size
    "recipe": {"crop_min": None, "jitter_strength": 1.0, "grayscale": None, "solarize": None},
}
# Settings of earlier versions, for the files that hold them: what they are called now, or that they
# are gone.
RENAMED = {
    "first_size": "view_size",
    "taps": "inner_blocks",
    "tap_grid": "inner_grids",
    "features": "representation",
}
GONE = ("compile", "first_epochs")
# what earlier versions did, which did not have these settings
NEW = dict.fromkeys(("classes_at", "labelled", "labels_file", "label_pattern", "group_by"))
NEW |= {"channels": "colour", "pack": "raw"}
NEW_OF_PRETRAINING = {"sync_batchnorm": True}
NEW_OF_CLASSIFIER = {"class_weights": "none", "folds": 0, "self_train": 0}
# Where labels are read, if not by the rules for class folders, and which of these go together
NAMING = ("labelled", "labels_file", "label_pattern", "classes_at")
TOGETHER = {"labelled", "classes_at"}
MAY_DIFFER_ON_RESUME = {
    *("device", "amp", "deterministic", "cuda_graph", "photos_in", "skip_broken"),
    *("data", "labelled", "labels_file"),  # what is in them is checked, and not where they lie
    *("log_every", "save_every", "save_within", "run_dir", "out", "resume", "overwrite"),
    *("tensorboard", "health_every"),
    "init",  # the weights themselves are compared, wherever they lie
}


def option(default, group: str, help: str, *, choices=None, low=None, high=None, none="none"):
    """Make a dataclass field with its group, help line and limits (inclusive; of a list's items).

    `none` is the word that stands for None, if the field may be None.
    """
    metadata = {"group": group, "help": help, "choices": choices}
    metadata |= {"low": low, "high": high, "none": none}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def _each_default(which: int) -> str:
    """List the base rate (0) or the weight decay (1) of each optimizer."""
    return ", ".join(f"{name} {values[which]:g}" for name, values in OPTIMIZERS.items())


@dataclass
class Shared:
    """What both training scripts need to agree on."""

    data: str = option(DATA, "data", "cats-vs-dogs, cifar10, cartoons, a folder or an archive")
    labelled: str | None = option(
        None, "data", "a second folder or archive, whose folders are the classes; the photos of "
        "--data then have no label (default: none)",
    )  # fmt: skip
    labels_file: str | None = option(
        None, "data", "a CSV file with the columns file,label; paths below --data (default: none)"
    )
    label_pattern: str | None = option(
        None, "data", "regular expression for a photo's path below --data: its first group, or the "
        "whole match, is the class (default: none)",
    )  # fmt: skip
    classes_at: int | None = option(
        None, "data", "which folder of a photo's path below --data names its class, 1 is the "
        "outermost, 0 the file's name without its number (default: the rules in "
        "docs/own_photos.md)", low=0, high=100, none="auto",
    )  # fmt: skip
    labels: int | None = option(
        LABELS, "data", "labelled images, balanced over the classes, or all; with another --data "
        "the default is all", low=0, none="all",
    )  # fmt: skip
    group_by: str | None = option(
        None, "data", "regular expression for a photo's path: photos with the same first group, or "
        "the same match, are never in two parts of a split (default: none)",
    )  # fmt: skip
    skip_broken: bool = option(
        False, "data", "go on without the broken files, also if they are more than 10 %"
    )
    holdout: int = option(0, "data", "images that neither script ever trains on", low=0)
    split_seed: int = option(
        0, "data", "which images are labelled and held out", low=0, high=MAX_SEED
    )
    image_size: int = option(
        150, "views", "side in pixels of the images that a classifier sees", low=8, high=1024
    )
    store_size: int | None = option(
        None,
        "views",
        "short side of the stored photos (default: 1.2 x image size)",
        low=8,
        high=2048,
    )
    pack: str = option(
        "raw", "views", "how the photos are stored; jpeg: a tenth of the disk, decoded at each use",
        choices=PACKS,
    )  # fmt: skip
    channels: str = option(
        "colour", "views", "grey: photos without colour, as three equal channels", choices=CHANNELS
    )
    mean: list[float] = option(
        [0.485, 0.456, 0.406], "views", "normalisation: mean of R, G, B in 0..1"
    )
    std: list[float] = option([0.229, 0.224, 0.225], "views", "normalisation: deviation of R, G, B")
    arch: str = option("resnet18", "method", "encoder", choices=tuple(ARCHITECTURES))
    stem: str = option("imagenet", "method", "first layers of the encoder", choices=STEMS)
    inner_blocks: list[str] = option(
        ["layer3.0", "layer2.0"],
        "method",
        "inner blocks, for --losses multi and --representation combined",
    )
    inner_grids: list[int] = option(
        [2, 4], "method", "side of the grid that the map of each block is averaged to", low=1
    )
    seed: int = option(
        0, "schedule", "weights, order of images and augmentations", low=0, high=MAX_SEED
    )
    device: str = option("auto", "hardware", "auto, cpu, cuda, cuda:N or mps")
    amp: str = option("auto", "hardware", "mixed precision", choices=AMP)
    deterministic: bool = option(
        False, "hardware", "make CUDA repeat a run to the bit, which is slower"
    )
    tensorboard: bool = option(
        False, "saving", "write metrics.jsonl for TensorBoard as well, into the run folder"
    )

    @property
    def reading(self) -> dict:
        """What `open_photos` must know: which photos, how they are stored, where labels are."""
        keys = *NAMING, "group_by", "skip_broken"
        of_settings = {key: getattr(self, key) for key in keys}
        size = {"store_size": self.stored_side, "kind": self.pack}
        return {"source": self.data, **size, **of_settings}

    @property
    def stored_side(self) -> int:
        """`store_size`, else 1.2 x image size up to a multiple of 4: side of the stored photos."""
        return self.store_size or -(-self.image_size * 12 // 40) * 4

    @property
    def block_grids(self) -> dict[str, int]:
        """The grid of each inner block. Raises `UserError` if blocks and grids do not pair up."""
        if not self.inner_blocks or len(set(self.inner_blocks)) < len(self.inner_blocks):
            raise UserError(
                f"inner_blocks {' '.join(self.inner_blocks)}: name one block or more, each once"
            )
        if len(self.inner_blocks) != len(self.inner_grids):
            raise UserError(
                f"inner_grids {' '.join(map(str, self.inner_grids))}: give one number for each of "
                f"the inner_blocks {' '.join(self.inner_blocks)}"
            )
        return dict(zip(self.inner_blocks, self.inner_grids, strict=True))


@dataclass
class PretrainConfig(Shared):
    """`train_byol.py`."""

    section: typing.ClassVar[str] = "pretrain"

    view_size: int | None = option(
        96,
        "views",
        "side of the views in pixels; with another --image-size the default is that",
        low=8,
        high=1024,
    )
    recipe: str = option("short", "views", "augmentations of the two views", choices=tuple(RECIPES))
    crop_min: float | None = option(
        None, "views", "least part of a photo that a view shows (default: the recipe's)",
        low=0.01, high=1,
    )  # fmt: skip
    jitter_strength: float = option(
        1.0, "views", "factor of the recipe's ranges of colour jitter", low=0, high=5
    )
    grayscale: float | None = option(
        None, "views", "part of the views without colour (default: the recipe's)", low=0, high=1
    )
    solarize: float | None = option(
        0.0, "views", "part of the second views that is solarized; another --recipe brings its own",
        low=0, high=1,
    )  # fmt: skip
    init: str = option(
        "random", "method", "weights to begin with: random, imagenet (torchvision's), or a file: "
        "byol.pt, or a state dict of a ResNet"
    )  # fmt: skip
    losses: str = option(
        "multi", "method", "on the representation alone, or on inner blocks as well", choices=LOSSES
    )
    loss_weights: list[float] = option(
        [1.0, 1.0, 1.0], "method",
        "of --losses multi: the representation's, then one for each inner block", low=0,
    )  # fmt: skip
    hidden_dim: int = option(1024, "method", "hidden width of projector and predictor", low=1)
    projection_dim: int = option(256, "method", "output width of projector and predictor", low=2)
    tau0: float = option(
        0.97, "method", "tau of the target's moving average at the start", low=0, high=1
    )
    whitening: float = option(
        0.0, "method", "whiten the target's projections, with this part of their variance added in "
        "each direction; 0: leave them, as the paper does", low=0, high=1,
    )  # fmt: skip
    epochs: int = option(240, "schedule", "passes over the unlabelled images", low=1)
    batch_size: int = option(256, "schedule", "images per optimizer step", low=2)
    optimizer: str = option("sgd", "schedule", "optimizer", choices=tuple(OPTIMIZERS))
    lr: float | None = option(
        None, "schedule", f"base rate, times batch / 256 (default: {_each_default(0)})", low=0
    )
    weight_decay: float | None = option(
        None, "schedule", f"weight decay (default: {_each_default(1)})", low=0
    )
    warmup_epochs: float = option(1.0, "schedule", "epochs of linear warm-up", low=0)
    head_epochs: float = option(
        1.0, "schedule", "epochs in which the heads alone learn, if --init gives weights", low=0
    )
    accumulate: int = option(
        1, "schedule", "micro-batches that a batch is split into, to save memory", low=1
    )
    sync_batchnorm: bool = option(
        True, "schedule", "with several processes BatchNorm sees the batch of all, in place of the "
        "share of its own",
    )  # fmt: skip
    photos_in: str = option(
        "auto", "hardware", "memory for the packed photos; auto: a GPU's, if there is room",
        choices=PLACES,
    )  # fmt: skip
    cuda_graph: bool = option(
        True, "hardware", "on CUDA record the networks' part of a step, and replay it"
    )
    run_dir: str = option("runs/byol", "saving", "folder for config, metrics and checkpoints")
    out: str = option("byol.pt", "saving", "file for the finished encoder")
    resume: bool = option(
        False, "saving", "go on from the last checkpoint of the run folder, if there is one; "
        "--resume auto says the same",
    )  # fmt: skip
    overwrite: bool = option(False, "saving", "start anew in a run folder that holds a run")
    health_every: int | None = option(
        None, "saving", "epochs from one look at the encoder's health to the next; 0: none "
        "(default: so that it takes about 1 % of the time)", low=0, none="auto",
    )  # fmt: skip
    log_every: int = option(10, "saving", "steps between two lines of metrics.jsonl", low=1)
    save_every: float = option(
        60.0, "saving", "seconds at least from a checkpoint to the next, at an epoch's end", low=0
    )
    save_within: float = option(
        600.0, "saving", "seconds at most from a checkpoint to the next, also amid an epoch", low=0
    )

    @property
    def views(self) -> tuple[View, View]:
        """The two views of the recipe, with what the settings change in it."""
        changes = self.crop_min, self.jitter_strength, self.grayscale, self.solarize
        views = adjust_recipe(RECIPES[self.recipe], *changes)
        return tuple(map(in_grey, views)) if self.channels == "grey" else views

    @property
    def view_side(self) -> int:
        """Side of the views: `view_size`, else the image size."""
        return self.view_size or self.image_size

    @property
    def trained_blocks(self) -> dict[str, int]:
        """The inner blocks that have a loss of their own, with their grids."""
        return self.block_grids if self.losses == "multi" else {}

    @property
    def output_weights(self) -> list[float]:
        """The weight of each loss: the representation's, then one for each trained block."""
        return self.loss_weights if self.losses == "multi" else [1.0]

    @property
    def base_lr(self) -> float:
        """`lr`, or the optimizer's own."""
        return OPTIMIZERS[self.optimizer][0] if self.lr is None else self.lr

    @property
    def decay(self) -> float:
        """`weight_decay`, or the optimizer's own."""
        return OPTIMIZERS[self.optimizer][1] if self.weight_decay is None else self.weight_decay

    @property
    def micro_batch(self) -> int:
        """How many images go through the networks at a time."""
        return self.batch_size // self.accumulate

    def schedule(self, images: int) -> Schedule:
        """Build the schedule for `images` unlabelled images.

        Raises `UserError` if batch size, micro-batches and images do not fit.
        """
        if self.batch_size % self.accumulate:
            raise UserError(
                f"--accumulate {self.accumulate} does not divide --batch-size {self.batch_size}"
            )
        if self.micro_batch < 2:
            raise UserError(
                f"--accumulate {self.accumulate} leaves one image in a micro-batch, and BatchNorm "
                "needs two: lower it"
            )
        if images < self.batch_size:
            raise UserError(
                f"--batch-size {self.batch_size} is larger than the {images:,} unlabelled images: "
                "lower it, or lower --labels or --holdout"
            )
        peak_lr = self.base_lr * self.batch_size / 256
        steps = images, self.batch_size, self.epochs, self.warmup_epochs
        head_epochs = 0.0 if self.init == "random" else self.head_epochs
        return Schedule(*steps, peak_lr, self.seed, self.tau0, head_epochs)


@dataclass
class ClassifierConfig(Shared):
    """`train_classifier.py`."""

    section: typing.ClassVar[str] = "classifier"

    init: str = option(
        "random", "method", "weights to begin with: random, imagenet (torchvision's), or a file: "
        "byol.pt, or a state dict of a ResNet"
    )  # fmt: skip
    freeze: bool = option(False, "method", "train the linear head alone on the frozen encoder")
    representation: str = option(
        AVGPOOL, "method", "what the head sees: the average pool, or inner blocks as well",
        choices=REPRESENTATIONS,
    )  # fmt: skip
    class_weights: str = option(
        "none", "method", "weights of the classes in the loss; balanced: the fewer images the more",
        choices=("none", "balanced"),
    )  # fmt: skip
    label_seed: int | None = option(
        None, "data", "which images are labelled, apart from the holdout (default: split seed)",
        low=0,
    )  # fmt: skip
    seeds: int = option(1, "schedule", "runs, one for each of seed, seed + 1, ...", low=1)
    folds: int = option(
        5, "schedule", "of the cross-validation on the labelled images, by which the probabilities "
        "are calibrated; 0 is none", low=0,
    )  # fmt: skip
    epochs: int = option(100, "schedule", "passes over the labelled images", low=1)
    self_train: int = option(
        0, "schedule", "passes over the unlabelled images, with the probabilities that a linear "
        "head gives them as their labels, in place of --epochs; 0 is none", low=0,
    )  # fmt: skip
    batch_size: int = option(50, "schedule", "images per optimizer step", low=2)
    optimizer: str = option("adamw", "schedule", "optimizer", choices=tuple(OPTIMIZERS))
    lr: float = option(1e-3, "schedule", "peak learning rate of the full model", low=0)
    encoder_lr_scale: float | None = option(
        None, "schedule", "rate of a pretrained encoder in the full model, as a multiple of lr "
        "(default: 0.1, with --self-train 0.3)", low=0,
    )  # fmt: skip
    weight_decay: float = option(1e-2, "schedule", "weight decay of the full model", low=0)
    frozen_lr: float = option(
        1e-2, "schedule", "peak learning rate of a head on frozen features", low=0
    )
    frozen_weight_decay: float = option(
        1.0, "schedule", "weight decay of a head on frozen features", low=0
    )
    warmup_epochs: float = option(5.0, "schedule", "epochs of linear warm-up", low=0)
    runs: str = option("runs", "saving", "folder that holds the run folders")
    run_dir: str | None = option(
        None,
        "saving",
        "run folder (default: below --runs, classifier-{random,byol,imagenet,FILE}-{full,frozen}, "
        "then -combined and -seedN if they apply)",
    )
    resume: bool = option(
        False, "saving", "keep finished runs, and go on with a stopped one; --resume auto says the "
        "same",
    )  # fmt: skip
    overwrite: bool = option(
        False, "saving", "replace a stopped run, or a finished one of other settings"
    )
    save_every: float = option(60.0, "saving", "seconds from a checkpoint to the next", low=0)

    @property
    def blocks(self) -> dict[str, int]:
        """The inner blocks that the head sees beside the average pool, with their grids."""
        return self.block_grids if self.representation == "combined" else {}

    @property
    def view(self) -> View:
        """What the full model sees of a photo while it learns."""
        return in_grey(CROP_AND_FLIP) if self.channels == "grey" else CROP_AND_FLIP

    @property
    def peak_lr(self) -> float:
        """The rate in use: of the frozen backbone's head, or of the full model."""
        return self.frozen_lr if self.freeze else self.lr

    @property
    def rate_flag(self) -> str:
        """The flag of the rate in use."""
        return "--frozen-lr" if self.freeze else "--lr"

    @property
    def decay(self) -> float:
        """The weight decay in use: of the frozen backbone's head, or of the full model."""
        return self.frozen_weight_decay if self.freeze else self.weight_decay

    @property
    def encoder_scale(self) -> float:
        """The encoder's rate as a multiple of the head's: random weights learn at the same rate."""
        if self.init == "random":
            return 1.0
        if self.encoder_lr_scale is None:
            return 0.3 if self.self_train else 0.1
        return self.encoder_lr_scale

    @property
    def begins_with_head(self) -> bool:
        """Whether all weights learn, and begin with a head on what the encoder gives already."""
        return not self.freeze and bool(self.init != "random" or self.self_train)

    def schedule(self, images: int, unlabelled: int = 0) -> Schedule:
        """Build the schedule for `images` labelled images, and `unlabelled` ones beside them."""
        if unlabelled:
            return MixedSchedule.of(images, unlabelled, self.self_train, self.peak_lr, self.seed)
        batch_size = min(self.batch_size, images)
        return Schedule(
            images, batch_size, self.epochs, self.warmup_epochs, self.peak_lr, self.seed
        )


def check(config) -> None:
    """Raise `UserError` for a value that is out of its limits, or does not go with another."""
    for f in dataclasses.fields(config):
        name, limits = f.name, f.metadata
        value = getattr(config, name)
        if value is None:
            continue
        if limits["choices"] and value not in limits["choices"]:
            near = nearest(value, limits["choices"])
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
    named = [key for key in NAMING if getattr(config, key) is not None]
    if len(named) > 1 and not set(named) <= TOGETHER:
        raise UserError(
            f"{named[0]} and {named[1]} exclude each other, since both say which photos are "
            "labelled: give one"
        )
    if isinstance(config, PretrainConfig):
        _check_pretraining(config)
        return
    if config.folds == 1:
        raise UserError("folds must be 2 or more, or 0 for no cross-validation, not 1")
    if config.self_train and config.freeze:
        raise UserError(
            "self_train teaches the full model, and freeze leaves it as it is: give one"
        )


def _check_pretraining(config: PretrainConfig) -> None:
    _check_shares(config)
    if config.view_side > config.stored_side:
        raise UserError(
            f"view_size {config.view_side} is above the stored photos' {config.stored_side}: "
            "lower it, or raise store_size"
        )
    if config.losses == "multi":
        outputs = [AVGPOOL, *config.trained_blocks]
        if len(config.loss_weights) != len(outputs) or not any(config.loss_weights):
            weights = " ".join(f"{weight:g}" for weight in config.loss_weights)
            raise UserError(
                f"loss_weights {weights}: give one for each of {', '.join(outputs)}, not all of "
                "them 0"
            )


def _check_shares(config: PretrainConfig) -> None:
    """Raise `UserError` if several processes cannot share out a batch evenly, two images each."""
    processes, size = distributed.count(), config.micro_batch
    if processes > 1 and (size % processes or size < 2 * processes):
        of = f" / accumulate {config.accumulate} = {size}" if config.accumulate > 1 else ""
        raise UserError(
            f"batch_size {config.batch_size}{of} cannot be shared out evenly among {processes} "
            f"processes: give {'both so that it is' if of else ''} a multiple of {processes}, "
            f"{2 * processes} or more"
        )


def check_flags(config, flags: set[str]) -> None:
    """Raise `UserError` for a flag that has no effect beside the others."""
    for names, useless, remedy in _useless_flags(config):
        if useless and (given := flags & names):
            flag = "--" + sorted(given)[0].replace("_", "-")
            raise UserError(f"{flag} {remedy.format(flag=flag.removeprefix('--'))}")
    from_checkpoint = isinstance(config, ClassifierConfig) and config.init != "random"
    if "labelled" in flags and config.data == DATA and "data" not in flags and not from_checkpoint:
        raise UserError(
            "--labelled is for labelled photos beside those of --data: add that, or give the "
            "folder of the labelled photos as --data"
        )
    if config.resume and config.overwrite:
        raise UserError("--resume and --overwrite exclude each other: give one")
    if isinstance(config, ClassifierConfig) and config.seeds > 1 and config.run_dir:
        raise UserError("--run-dir names the folder of one run; with --seeds give --runs instead")


def _useless_flags(config) -> list[tuple[set[str], bool, str]]:
    """Sets of flags, whether they have no effect, and what to say then."""
    blocks = {"inner_blocks", "inner_grids"}
    if isinstance(config, PretrainConfig):
        classic, random = config.losses == "classic", config.init == "random"
        grey = config.channels == "grey"
        return [
            (blocks | {"loss_weights"}, classic, "is for --losses multi: add that"),
            ({"head_epochs"}, random, "is for --init FILE or imagenet: add that"),
            ({"grayscale"}, grey, "is for photos in colour: leave it or --channels grey out"),
        ]
    frozen = "is for the full model; with --freeze give --frozen-{flag}"
    scale = "is for the full model; leave it or --freeze out"
    return [
        ({"lr", "weight_decay"}, config.freeze, frozen),
        ({"encoder_lr_scale"}, config.freeze, scale),
        (blocks, not config.blocks, "is for --representation combined: add that"),
    ]


def modern_settings(settings: dict) -> dict:
    """Give the settings of an earlier version the names of today; leave out those that are gone.

    Add those that are new, as they were without being settings.
    """
    renamed = {RENAMED.get(key, key): value for key, value in settings.items()}
    new = NEW | (NEW_OF_CLASSIFIER if "freeze" in settings else NEW_OF_PRETRAINING)
    return new | {key: value for key, value in renamed.items() if key not in GONE}


def convert(value, hint, place: str, *, from_text: bool, none: str = ""):
    """Convert `value` to the type of the field. Raises `UserError` that names `place`."""
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
            raise UserError(f"{place} must be a list of {what}, not {value!r}")
        return [convert(v, inner, place, from_text=from_text) for v in value]
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
    raise UserError(f"{place} must be {kinds[hint]}{or_none}, not {value!r}")


def inherit(config, key: str, value, path: str) -> None:
    """Put a setting that the file at `path` holds into `config`.

    Raises `UserError` if it has another type. `check` says whether its value is possible.
    """
    hint = typing.get_type_hints(type(config))[key]
    setattr(config, key, convert(value, hint, f"{key} in {path}", from_text=False))
