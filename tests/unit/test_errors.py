from __future__ import annotations

import re

from engine import errors
from engine.errors import StemifyError


def tree(kind: type[StemifyError], depth: int = 0) -> list[tuple[int, str]]:
    """Return (depth, name) of `kind` and its subclasses in `engine.errors`, in the order of their definition."""
    rows = [(depth, kind.__name__)]
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            rows += tree(child, depth + 1)
    return rows


def test_drawing_equals_tree() -> None:
    rows = re.findall(r"^([│├└─ ]*)(\w+)(?: {2,}.*)?$", (errors.__doc__ or "").partition("\n")[2], re.MULTILINE)
    assert [(len(prefix) // 4, name) for prefix, name in rows] == tree(StemifyError)
