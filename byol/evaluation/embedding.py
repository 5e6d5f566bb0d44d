"""Features of any photos, by the encoder in a file of this project."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from byol.config import ClassifierConfig
from byol.encoder import check_inner_blocks
from byol.errors import UserError
from byol.evaluation.classifier_run import take_settings
from byol.evaluation.features import FeatureExtractor
from byol.hardware.step import prepare
from byol.run import checkpoint


@dataclass
class LoosePhotos:
    """A few photos in memory, for `Embedder` as those of a pack.

    images: uint8 (N, 3, H, W) on the device. sizes: int32 (N, 2), their own heights and widths.
    """

    images: Tensor
    sizes: np.ndarray


class Embedder:
    """Computes the features of photos by the encoder of a `byol.pt` or a `classifier.pt`.

    stored_side: side in pixels at which the encoder's photos are packed.
    pack: how they are stored, `--pack` of its training.
    """

    def __init__(self, path: str | Path, device: torch.device, amp: torch.dtype | None):
        """Read the encoder. Raises `UserError` for a file that holds none."""
        content = {"config": {}, **checkpoint.load_any(path)}
        self.config = ClassifierConfig(init=str(path))
        take_settings(self.config, content, set())
        self.encoder = prepare(checkpoint.load_encoder(content, path), device)
        self.device, self.amp = device, amp
        self.stored_side, self.pack = self.config.stored_side, self.config.pack

    def __call__(self, photos) -> Tensor:
        """Compute the representation of all photos: (N, width), float32."""
        return self._extract(photos, {})

    def both_ways(self, photos) -> tuple[Tensor, list[int]]:
        """Compute features that a photo shares with its mirror image: (N, width), and block widths.

        They are the mean of both, of the representation and of the inner blocks. Blocks whose maps
        are too small for their grids are left out.
        """
        blocks, config = {}, self.config
        for name, grid in config.block_grids.items():
            with contextlib.suppress(UserError):
                check_inner_blocks({name: grid}, config.arch, config.stem, config.image_size)
                blocks[name] = grid
        features = self._extract(photos, blocks).add_(self._extract(photos, blocks, mirrored=True))
        return features.div_(2), list(self.encoder.widths(blocks).values())

    def _extract(self, photos, blocks: dict[str, int], mirrored: bool = False) -> Tensor:
        config = self.config
        extract = FeatureExtractor(
            image_size=config.image_size, mean=config.mean, std=config.std, device=self.device,
            amp=self.amp, inner_blocks=blocks, channels=config.channels, mirrored=mirrored,
        )  # fmt: skip
        what = "features of mirror images" if mirrored else "features"
        return extract(self.encoder, photos, np.arange(len(photos.sizes)), what)
