"""Self-training: unlabelled photos learn with the probabilities that a first classifier gives them.

The first classifier is the encoder as it is with a linear head. It sees the central view of each
unlabelled photo once. Then the whole model learns its calibrated probabilities, sharpened, of the
photos of which it is most sure. It sees strong views of them, with labelled photos in each batch
(arXiv 1911.04252, 2006.10029 section 2.3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from byol.config import BELONGING, PretrainConfig, inherit
from byol.evaluation.classifier import Classifier
from byol.views.recipes import View

CHUNK = 4096  # photos whose features are held at a time
KEPT = 0.75  # of the unlabelled photos: those whose class is most probable
SHARPENED = 0.5  # temperature of the probabilities that are learned


@dataclass
class Lesson:
    """What the whole model learns from.

    rows: (M,) of the photos, the labelled ones first. targets: (M, classes), probabilities. view:
    what it sees of them.
    """

    rows: np.ndarray
    targets: Tensor
    view: View


def strong_view(pretrained: dict | None, channels: str) -> View:
    """Give the view of which pretraining learned; of random weights that of the default recipe."""
    config = PretrainConfig(channels=channels)
    settings = pretrained["config"] if pretrained else {}
    for key in ("recipe", *BELONGING["recipe"]):
        if key in settings:
            inherit(config, key, settings[key], "pretraining")
    return config.views[0]


def prepare_lesson(
    classifier: Classifier, photos, labelled: np.ndarray, unlabelled: np.ndarray, view, device, amp
) -> Lesson:
    """Let `classifier` label the unlabelled photos, and keep those of which it is most sure."""
    logits = torch.cat(
        [
            classifier.predict(photos, unlabelled[at : at + CHUNK], device, amp).log()
            for at in range(0, len(unlabelled), CHUNK)
        ]
    )
    kept = logits.amax(1).argsort(descending=True, stable=True)[: count_kept(len(unlabelled))]
    kept = kept.sort().values
    given = F.softmax(logits[kept] / SHARPENED, dim=1)
    truth = torch.from_numpy(photos.labels[labelled]).to(device)
    known = F.one_hot(truth, len(classifier.classes)).float()
    rows = np.concatenate([labelled, unlabelled[kept.cpu().numpy()]])
    return Lesson(rows, torch.cat([known, given]), view)


def count_kept(unlabelled: int) -> int:
    """Count the photos that are learned from, of so many."""
    return round(KEPT * unlabelled)
