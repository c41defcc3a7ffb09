"""The documents name only files that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text()
    links = [part for part in re.findall(r"\]\(([^)#\s]+)\)", text) if "://" not in part]
    assert not [link for link in links if not (page.parent / link).exists()]
    named = re.findall(r"`((?:tests|bench|engine|bot|config|training)/[\w./]+\.\w+)`", text)
    assert not [name for name in named if not (ROOT / name).exists()]
    modules = re.findall(r"python -m ((?:tests|bench|training)[\w.]*)", text)
    assert not [name for name in modules if not list(ROOT.glob(name.replace(".", "/") + "*"))]
