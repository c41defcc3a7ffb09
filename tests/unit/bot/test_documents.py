"""The documentation names what users see in Discord."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
DOCUMENT = (ROOT / "docs" / "discord.md").read_text()


@pytest.mark.parametrize("folder", ["cards", "voice", "listening"])
def test_documentation_names_every_button(folder: str) -> None:
    labels = _labels(ROOT / "bot" / folder / "text.py")
    assert len(labels) > 2
    assert [label for label in labels if f"*{label}*" not in DOCUMENT] == []


def _labels(module: Path) -> list[str]:
    """Return the constants below the comment "Buttons" of a module of texts."""
    source = module.read_text()
    first = source[: source.index("# Buttons.")].count("\n") + 1
    labels = list[str]()
    for node in ast.parse(source).body:
        if node.lineno > first:
            if not isinstance(node, ast.Assign):
                break
            labels += [str(part.value) for part in ast.walk(node.value) if isinstance(part, ast.Constant)]
    return labels
