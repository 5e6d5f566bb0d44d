"""Random views of photos, and the central view for evaluation. Read this file first.

`recipes.py` says what may happen, `draws.py` what happens to which photo, `render.py` makes it
happen in batches, `image_ops.py` holds the operations.

The order is the paper's (arXiv 2006.07733, appendix B): crop and flip, colour jitter in random
order, grayscale, blur, solarize, clip to 0..1, normalise. Quarter turns follow the flip. Each
operation is torchvision's. The authors' own code differs in two: its brightness adds a constant,
and its contrast turns about the mean of each channel; here brightness multiplies and contrast turns
about the mean grey.

Every draw belongs to one photo and is a pure function of (seed, step, photo, view), so a view does
not depend on how a batch is split or ordered.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from byol.views.draws import ORDERS, Draws, draw
from byol.views.recipes import View
from byol.views.render import render


class Augment:
    """Makes one view of each photo: a function of a batch and the step, without a state."""

    def __init__(
        self,
        view: View,
        view_index: int,
        view_side: int,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int,
    ):
        """view_index: 0 or 1. mean, std: normalisation of R, G, B in 0..1."""
        self.view, self.view_index, self.seed = view, view_index, seed
        self.view_side, self.mean, self.std = view_side, tuple(mean), tuple(std)

    def __call__(self, images: Tensor, sizes: np.ndarray, photos: np.ndarray, step: int) -> Tensor:
        """Views of uint8 `images` (B, 3, H, W): float32 (B, 3, view_side, view_side).

        sizes: (B, 2) the photos' own heights and widths. photos: (B,) their rows in the data.
        """
        draws = draw(self.view, self.view_index, self.seed, step, photos, sizes)
        return render(images, draws, self.view_side, self.mean, self.std)


class TwoViews:
    """Makes both views of a recipe, which draw independently."""

    def __init__(
        self,
        recipe: tuple[View, View],
        view_side: int,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int,
    ):
        self.augment1, self.augment2 = (
            Augment(view, view_index, view_side, mean, std, seed)
            for view_index, view in enumerate(recipe)
        )

    def __call__(self, batch, step: int) -> tuple[Tensor, Tensor]:
        """Two views of a `Batch` (byol/hardware/batches.py): float32 (B, 3, side, side) each."""
        arguments = batch.images, batch.sizes, batch.rows, step
        return self.augment1(*arguments), self.augment2(*arguments)


def central_view(
    images: Tensor,
    sizes: np.ndarray,
    image_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    channels: str = "colour",
) -> Tensor:
    """Make the view for evaluation: the photo's largest central square, resized, normalised.

    channels "grey": without its colour, as three equal channels.
    """
    sizes = np.asarray(sizes, dtype=np.int64)
    side = sizes.min(axis=1, keepdims=True)
    corner = np.rint((sizes - side) / 2).astype(np.int64)  # torchvision's center_crop
    never = np.zeros(len(sizes), dtype=bool)
    draws = Draws(
        sizes=sizes,
        crop=np.concatenate([corner, side, side], axis=1),
        flip=never,
        jitter=never,
        order=np.tile(ORDERS[0], (len(sizes), 1)),
        factors=np.tile([1.0, 1.0, 1.0, 0.0], (len(sizes), 1)),
        grayscale=np.full(len(sizes), channels == "grey"),
        sigma=np.zeros(len(sizes)),
        solarize=never,
        vertical_flip=never,
        quarter_turns=np.zeros(len(sizes), dtype=np.int64),
    )
    return render(images, draws, image_size, mean, std)
