"""The documents stay short, and what they link to is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MEASURED = [ROOT / "results" / "README.md", ROOT / "benchmarks" / "README.md"]


def prose(path: Path) -> list[str]:
    """The lines outside of code, tables and pictures."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith(("    ", "|", "!["))]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_is_short(path):
    assert sum(len(line.split()) for line in prose(path)) <= (1000 if path in PAGES[:1] else 1200)


@pytest.mark.parametrize("path", [*PAGES, *MEASURED], ids=lambda path: path.parent.name + path.name)
def test_lines_are_short_and_links_lead_somewhere(path):
    assert [line for line in prose(path) if len(line) > 100] == []
    links = re.findall(r"\]\(([^)#]+)", path.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (path.parent / link).exists()] == []


def test_the_purposes_have_a_page_each():
    names = {path.stem for path in PAGES[1:]}
    pages = "running distributed own_photos packs labels weights predict explore"
    pages += " inner_blocks label_curve robustness recipe developing"
    assert set(pages.split()) <= names
