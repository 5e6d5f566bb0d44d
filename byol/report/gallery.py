"""What `plot_losses.py` shows: pictures in order, each with its words."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Shown:
    """A picture, and what to say of it.

    title: a few words. caption: a sentence or two, what to look at and what it means. alt: what
    the picture shows, for who cannot see it, figures included. table: the figures in rows, of which
    the first is the head; empty if there are none to look up. command: what made the picture, if it
    was another script.
    """

    path: Path
    title: str
    caption: str
    alt: str
    table: list[list[str]] = field(default_factory=list)
    command: str = ""
