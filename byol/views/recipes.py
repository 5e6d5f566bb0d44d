"""Recipes: the two views of a photo as ranges and probabilities (arXiv 2006.07733, appendix B)."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class View:
    """One row of a recipe: ranges, and the probability of each operation."""

    crop_scale: tuple[float, float] = (0.08, 1.0)  # of the photo's area
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width / height, log-uniform
    flip: float = 0.5  # probability
    jitter: float = 0.0  # probability of the next four, together and in random order
    brightness: float = 0.4  # factor 0.6..1.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1  # turn of -0.1..0.1 of the circle
    grayscale: float = 0.0  # probability
    blur: float = 0.0  # probability
    solarize: float = 0.0  # probability
    vertical_flip: float = 0.0  # probability
    quarter_turn: float = 0.0  # probability of one, two or three quarter turns, each alike


ANY_WAY_UP = {"vertical_flip": 0.5, "quarter_turn": 0.75}  # all eight positions alike

# fmt: off
RECIPES: dict[str, tuple[View, View]] = {
    # The paper's two views.
    "photos": (
        View(jitter=0.8, grayscale=0.2, blur=1.0, solarize=0.0),
        View(jitter=0.8, grayscale=0.2, blur=0.1, solarize=0.2),
    ),
    # The same without blur, for images of about 32 pixels, which have no detail to spare.
    "small": (
        View(jitter=0.8, grayscale=0.2, solarize=0.0),
        View(jitter=0.8, grayscale=0.2, solarize=0.2),
    ),
    # Short runs on small photos: colour is the easiest identity to keep, so more of it goes.
    "short": (
        View((0.2, 1.0), jitter=0.8, saturation=0.4, hue=0.2, grayscale=0.4, solarize=0.0),
        View((0.2, 1.0), jitter=0.8, saturation=0.4, hue=0.2, grayscale=0.4, solarize=0.2),
    ),
    # Drawings: flat colours say little about what is drawn, outlines say much.
    "cartoons": (
        View(crop_scale=(0.2, 1.0), jitter=0.8, hue=0.5, grayscale=0.5),
        View(crop_scale=(0.2, 1.0), jitter=0.8, hue=0.5, grayscale=0.5),
    ),
    # Pictures without an up: microscopy, satellite, materials. Else as "short".
    "any_way_up": (
        View((0.2, 1.0), jitter=0.8, saturation=0.4, hue=0.2, grayscale=0.4, **ANY_WAY_UP),
        View((0.2, 1.0), jitter=0.8, saturation=0.4, hue=0.2, grayscale=0.4, **ANY_WAY_UP),
    ),
    # Colour is what matters: flowers, food, birds, stains. The light changes, the hue stays.
    "keep_colour": (
        View((0.2, 1.0), jitter=0.8, saturation=0.2, hue=0.0),
        View((0.2, 1.0), jitter=0.8, saturation=0.2, hue=0.0),
    ),
}
# fmt: on

CROP_AND_FLIP = View(crop_scale=(0.25, 1.0))  # for supervised fine-tuning


def in_grey(view: View) -> View:
    """Give what a view does to photos whose colour is taken away from all of them."""
    return replace(view, saturation=0.0, hue=0.0, grayscale=1.0)


def adjust_recipe(
    recipe: tuple[View, View],
    crop_min: float | None = None,
    jitter_strength: float = 1.0,
    grayscale: float | None = None,
    solarize: float | None = None,
) -> tuple[View, View]:
    """Give a recipe other crops, weaker or stronger jitter, grayscale, or solarizing (view two).

    `jitter_strength` multiplies the ranges of brightness, contrast, saturation and hue; the hue
    turns by half the circle at most.
    """
    first, second = (
        replace(
            view,
            crop_scale=view.crop_scale if crop_min is None else (crop_min, view.crop_scale[1]),
            brightness=jitter_strength * view.brightness,
            contrast=jitter_strength * view.contrast,
            saturation=jitter_strength * view.saturation,
            hue=min(jitter_strength * view.hue, 0.5),
            grayscale=view.grayscale if grayscale is None else grayscale,
        )
        for view in recipe
    )
    return first, second if solarize is None else replace(second, solarize=solarize)
