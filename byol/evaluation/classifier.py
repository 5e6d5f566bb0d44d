"""A classifier: encoder, scaling of its features, linear head. It is trained, saved and loaded."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from byol.config import ClassifierConfig, check, inherit
from byol.encoder import Encoder, check_inner_blocks
from byol.errors import UserError, printable
from byol.evaluation.familiar import BLOCK, Familiar, looks_of_rows, some_known
from byol.evaluation.features import FeatureExtractor, RunningStandardise, Standardise, combine
from byol.evaluation.linear_and_knn import fit_linear, scores_by_folds
from byol.evaluation.temperature import find_temperature
from byol.hardware.device import autocast
from byol.hardware.step import prepare
from byol.optim import parameter_groups
from byol.run import checkpoint

MOST_WIDE = 8192  # pixels of a stored photo
MOST_TO_STANDARDISE = 5000  # images: enough for a start
OF_SINGLE = 1.0  # L2 strength of the first head if a class has one image, so that none is chosen


class Classifier(nn.Module):
    """Scores of classes: head(scaling(encoder(views))).

    settings: `image_size`, `mean`, `std` and `channels` say what it wants to see; `arch` and `stem`
    what its encoder is (see `FROM_PRETRAINED` in byol/run/checkpoint.py). stored_shape: height and
    width of the stored photos that it learned from. familiar: knows the photos of training.
    """

    def __init__(
        self, encoder: Encoder, inner_blocks: dict[str, int], classes: list[str], settings: dict
    ):
        super().__init__()
        self.encoder, self.inner_blocks = encoder, inner_blocks
        self.classes, self.settings = list(classes), settings
        self.widths = encoder.widths(inner_blocks)  # {"avgpool": 512, ...}
        self.scaling: nn.Module | None = None
        self.temperature: float | None = None  # of calibrated probabilities, if it is known
        self.familiar: Familiar | None = None
        self.stored_shape: tuple[int, int] | None = None
        self.head = nn.Linear(sum(self.widths.values()), len(self.classes))
        self.fixed_statistics = False  # BatchNorm's, as the encoder learns
        self._start: dict[str, Tensor] | None = None
        self._end: dict[str, Tensor] | None = None

    @classmethod
    def begin(cls, config, pretrained: dict | None, classes: list[str]) -> Classifier:
        """Build an untrained classifier, from the checkpoint `pretrained` or from random weights.

        config: a `ClassifierConfig`. Draws from torch's generator. Raises `UserError` if the
        checkpoint is damaged.
        """
        if pretrained:
            encoder = checkpoint.load_encoder(pretrained, config.init)
        else:
            encoder = Encoder(config.arch, config.stem)
        settings = {key: getattr(config, key) for key in checkpoint.FROM_PRETRAINED}
        return cls(encoder, config.blocks, classes, settings)

    def forward(self, views: Tensor, amp: torch.dtype | None = None) -> Tensor:
        """Score views (N, 3, S, S), normalised: (N, classes), float32."""
        with autocast(views.device, amp):
            features = combine(self.encoder, views, self.inner_blocks)  # (N, width)
        return self.score(features)

    def score(self, features: Tensor) -> Tensor:
        """Score features (N, width): (N, classes)."""
        return self.head(features if self.scaling is None else self.scaling(features))

    def train(self, mode: bool = True) -> Classifier:
        """Set the mode; what is frozen or has fixed statistics stays in evaluation mode."""
        super().train(mode)
        self.encoder.train(mode and not (self.frozen or self.fixed_statistics))
        if self.scaling is not None:
            self.scaling.train(mode and not self.fixed_statistics)
        return self

    # ---- to train it

    @property
    def frozen(self) -> bool:
        return not next(self.encoder.parameters()).requires_grad

    def freeze(self, features: Tensor) -> Tensor:
        """Train the head alone, on standardised features (N, width): return what it sees.

        The encoder stays as it is, bit for bit, BatchNorm's statistics included.
        """
        self.encoder.requires_grad_(False)
        scaling = Standardise(features, list(self.widths.values()))
        self.scaling = scaling
        return scaling(features)

    def standardise_while_training(self, features: Tensor) -> None:
        """Keep blocks side by side standardised while the encoder learns, from `features` on.

        The average pool alone finds its scale as it learns.
        """
        self.scaling = RunningStandardise(features, list(self.widths.values()))
        self.scaling.to(features.device)

    def begin_with_head(self, features: Tensor, labels: Tensor) -> float:
        """Take a head by logistic regression on features (N, width), and remember the start.

        Returns the temperature of its scores. labels: (N,). Without it a head of random weights
        would pull on the encoder before it knows anything.
        """
        self.standardise_while_training(features)
        self.scaling.eval()
        seen, classes = self.scaling(features), len(self.classes)
        single = int(torch.bincount(labels, minlength=classes).min()) < 2
        head, strength = fit_linear(seen, labels, classes, OF_SINGLE if single else None)
        self.head.load_state_dict(head.state_dict())
        self._start, self._end = copy_of(self.learning), None
        if single:
            return 1.0
        return find_temperature(scores_by_folds(seen, labels, classes, strength), labels)

    def go_to(self, share: float) -> None:
        """Set the weights between the start (0) and the end (1) of training (arXiv 2109.01903).

        The start is that of `begin_with_head`. The end is where the first call found the weights.
        """
        self._end = self._end or copy_of(self.learning)
        self.learning.load_state_dict(
            {
                name: self._start[name].lerp(end, share) if end.is_floating_point() else end
                for name, end in self._end.items()
            }
        )

    def groups(self, encoder_scale: float) -> list[dict]:
        """List the parameters that learn, for an optimizer; the encoder at a rate of its own."""
        groups = parameter_groups(self.head)
        if not self.frozen:
            encoder_groups = parameter_groups(self.encoder)
            groups += [{**group, "lr_scale": encoder_scale} for group in encoder_groups]
        return groups

    @property
    def learning(self) -> nn.ModuleDict:
        """What changes in training, and so what a checkpoint of the training holds."""
        learning = nn.ModuleDict({"head": self.head})
        if not self.frozen:
            learning["encoder"] = self.encoder
            if self.scaling is not None:
                learning["standardise"] = self.scaling
        return learning

    # ---- to use it

    def folded_head(self) -> nn.Linear:
        """Build the linear layer on raw features that equals scaling and head."""
        return self.head if self.scaling is None else self.scaling.fold(self.head)

    def extractor(self, device: torch.device, amp: torch.dtype | None) -> FeatureExtractor:
        """Build what computes the features of photos as this classifier wants to see them."""
        viewing = {key: self.settings[key] for key in ("image_size", "mean", "std")}
        viewing["channels"] = self.settings.get("channels", "colour")
        return FeatureExtractor(**viewing, device=device, amp=amp, inner_blocks=self.inner_blocks)

    @torch.no_grad()
    def predict(
        self, photos, rows: np.ndarray, device: torch.device, amp: torch.dtype | None
    ) -> Tensor:
        """Compute the probability of each class for `rows` of `photos`: (N, classes), float32."""
        extract = self.extractor(device, amp)
        return self.probabilities(extract(self.encoder, photos, rows, what="photos"))

    @torch.no_grad()
    def probabilities(self, features: Tensor) -> Tensor:
        """Compute calibrated probabilities (N, classes) of raw features (N, width)."""
        return F.softmax(self.folded_head()(features) / (self.temperature or 1.0), dim=1)

    def know(self, photos, split, device: torch.device, amp: torch.dtype | None) -> None:
        """Know the photos of training again, or some of them, if there are two or more."""
        rows = some_known(split.labelled, split.unlabelled)
        self.familiar = Familiar.of(
            looks_of_rows(self.extractor(device, amp), self.encoder, photos, rows)
        )

    def save(self, path: str | Path, config: dict) -> None:
        """Write the classifier, its scaling folded into the head. config: all its settings."""
        content = {
            "encoder": checkpoint.encoder_weights(self.encoder),
            "head": checkpoint.head_weights(self.folded_head()),
            "classes": self.classes,
            **self.settings,
            "stored_shape": list(self.stored_shape) if self.stored_shape else None,
            "inner_blocks": self.inner_blocks,
            "temperature": self.temperature,
            "looks": self.familiar.state_dict() if self.familiar else None,
            "config": config,
        }
        checkpoint.save(path, checkpoint.CLASSIFIER, content)

    @classmethod
    def load(cls, path: str | Path, device: torch.device) -> Classifier:
        """Read a classifier for use, in evaluation mode. No code in the file can run.

        Raises `UserError` if the file is missing, damaged, or something else.
        """
        content = checkpoint.load(path, checkpoint.CLASSIFIER)
        settings, stored_side = _check_content(content, path)
        encoder = checkpoint.load_encoder(content, path)
        try:
            classifier = cls(encoder, content["inner_blocks"], content["classes"], settings)
            classifier.head.load_state_dict(content["head"])
            classifier._load_of_today(content, stored_side)
        except UserError as error:
            raise UserError(f"{printable(str(path))} is damaged: {error}; give another") from None
        except (RuntimeError, TypeError, AttributeError, ValueError, KeyError):
            raise UserError(
                f"{printable(str(path))} is incomplete: its head does not fit; give another"
            ) from None
        if not checkpoint.all_finite(classifier):
            raise UserError(
                f"{printable(str(path))} holds weights that are not finite numbers; give another"
            )
        prepare(classifier, device)
        if classifier.familiar:
            classifier.familiar = classifier.familiar.to(device)
        return classifier.eval()

    def _load_of_today(self, content: dict, stored_side: int) -> None:
        """Take what files of earlier versions lack. Raises `ValueError` and its like."""
        height, width = content.get("stored_shape") or (stored_side, stored_side)
        if not (type(height) is type(width) is int and 0 < height <= width <= MOST_WIDE):
            raise ValueError
        self.stored_shape = height, width
        self.temperature, state = content.get("temperature"), content.get("looks")
        if not (self.temperature is None or _is_temperature(self.temperature)):
            raise UserError(f"it has an impossible temperature, {self.temperature!r}")
        if state:
            width = 2 * self.encoder.widths({BLOCK: 1})[BLOCK]
            known, of_known = state["known"].shape
            fits = state["mean"].shape == state["scale"].shape == (width,) and of_known == width
            lists = state["distances"].shape == state["factors"].shape == (known,)
            if not (fits and lists and known > 1):
                raise ValueError
            self.familiar = Familiar(**state)


def _is_temperature(value: object) -> bool:
    return type(value) is float and 0 < value < math.inf


def _check_content(content: dict, path: str | Path) -> tuple[dict, int]:
    """Check what a classifier's file says of itself; give its `FROM_PRETRAINED`, its stored side.

    Raises `UserError` for what is not possible.
    """
    config, classes, blocks = ClassifierConfig(), content["classes"], content["inner_blocks"]
    before = content.get("config")
    try:
        for key in checkpoint.FROM_PRETRAINED:
            inherit(config, key, content[key], str(path))
        if isinstance(before, dict):
            inherit(config, "store_size", before.get("store_size"), str(path))
        check(config)
        if not (isinstance(classes, list) and all(type(name) is str for name in classes)):
            raise UserError("classes must be a list of names")
        if not (isinstance(blocks, dict) and all(type(grid) is int for grid in blocks.values())):
            raise UserError("inner_blocks must be names with their grids")
        config.inner_blocks, config.inner_grids = list(blocks), list(blocks.values())
        check(config)
        check_inner_blocks(blocks, config.arch, config.stem, config.image_size)
    except UserError as error:
        raise UserError(f"{printable(str(path))} is no classifier that can be: {error}") from None
    return {key: content[key] for key in checkpoint.FROM_PRETRAINED}, config.stored_side


def some_rows(rows: np.ndarray) -> np.ndarray:
    """Pick at most `MOST_TO_STANDARDISE` of `rows`, evenly spread."""
    return rows[:: math.ceil(len(rows) / MOST_TO_STANDARDISE)]


def copy_of(module: nn.Module) -> dict[str, Tensor]:
    """Copy the state of a module, on its device."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}
