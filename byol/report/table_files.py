"""Writes the result of `evaluate.py`: a table as Markdown, as JSON and as a picture."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from byol.files import write_atomically, write_json
from byol.report.pictures import draw_table, save_picture
from byol.report.table import Cell, markdown


def write(folder: Path, name: str, cells: list[Cell], about: dict) -> None:
    """Write name.md, name.json and name.png, each whole or not at all."""
    write_atomically(folder / f"{name}.md", markdown(cells, about["tested_on"]).encode())
    write_json(folder / f"{name}.json", {**about, "cells": [asdict(cell) for cell in cells]})
    save_picture(draw_table(cells), folder / f"{name}.png")


def remove(folder: Path, name: str) -> None:
    """Remove what `write` wrote."""
    for kind in ("md", "json", "png"):
        (folder / f"{name}.{kind}").unlink(missing_ok=True)
