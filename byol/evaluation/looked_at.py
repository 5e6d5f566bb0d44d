"""Which photos are looked at for pictures, and how many, so that nobody waits for them."""

from __future__ import annotations

import numpy as np
import torch

from byol.evaluation.features import FeatureExtractor

MOST, LEAST = 2_000, 500
DEPTH = {"resnet18": 1.0, "resnet34": 2.0, "resnet50": 2.3}  # work of a photo, about
CIFAR_STEM = 16.0  # as much work as with the other stem: the maps are four times as wide and high


def photos_to_look_at(settings: dict, device: torch.device) -> int:
    """Say how many photos to compute the features of: fewer on a CPU, if each takes long.

    settings: `arch`, `stem` and `image_size` of the encoder.
    """
    if device.type != "cpu":
        return MOST
    work = DEPTH.get(settings["arch"], 1.0) * (settings["image_size"] / 64) ** 2
    work *= CIFAR_STEM if settings["stem"] == "cifar" else 1.0
    return max(LEAST, min(MOST, round(MOST / work)))


def spread(rows: np.ndarray, most: int) -> np.ndarray:
    """Pick at most `most` of `rows`, evenly spread from the first to the last."""
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).round().astype(np.int64)]


def pick_rows(labels: np.ndarray, most: int) -> np.ndarray:
    """Pick at most `most` photos, evenly spread; if few have a class, all of these.

    labels: (N,), -1 for no class. Those with a class are at most one half, if there are others.
    """
    known, others = np.flatnonzero(labels >= 0), np.flatnonzero(labels < 0)
    known = spread(known, most - min(len(others), most // 2))
    return np.sort(np.concatenate([known, spread(others, most - len(known))]))


def with_classes(labels: np.ndarray) -> np.ndarray:
    """Pick the places in labels (N,) that have a class; all of them, if these would not do."""
    known = np.flatnonzero(labels >= 0)
    return known if len(np.unique(labels[known])) > 1 else np.arange(len(labels))


def extractor_of(settings: dict, device: torch.device, amp: torch.dtype | None) -> FeatureExtractor:
    """Build what computes features as the encoder of a checkpoint wants to see photos."""
    viewing = {key: settings[key] for key in ("image_size", "mean", "std", "channels")}
    return FeatureExtractor(**viewing, device=device, amp=amp)
