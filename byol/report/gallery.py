"""What `plot_losses.py` shows: pictures in order, each with its words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass
class Shown:
    """A picture, and what to say of it.

    title: a few words. caption: a sentence or two, what to look at and what it means. alt: what
    the picture shows, for who cannot see it, figures included.
    """

    path: Path
    title: str
    caption: str
    alt: str
