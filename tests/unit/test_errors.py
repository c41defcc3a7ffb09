from __future__ import annotations

import re

from engine import errors
from engine.errors import StemifyError

LINE = re.compile(r"^((?:│   |    )*)[├└]── (\w[\w, ]*?)(?: ── (\w[\w, ]*?))?(?:  # .*)?$", re.MULTILINE)


def drawn_tree() -> set[tuple[str, str]]:
    """Return (parent, child) pairs of the drawing in `engine.errors`."""
    pairs, path = set[tuple[str, str]](), ["StemifyError"]
    for indent, names, children in LINE.findall(errors.__doc__ or ""):
        depth = len(indent) // 4
        pairs |= {(path[depth], name) for name in names.split(", ")}
        path[depth + 1 :] = [names]
        pairs |= {(names, child) for child in children.split(", ") if child}
    return pairs


def real_tree(kind: type[StemifyError] = StemifyError) -> set[tuple[str, str]]:
    """Return (parent, child) pairs of the classes that `engine.errors` defines."""
    pairs = set[tuple[str, str]]()
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            pairs |= {(kind.__name__, child.__name__)} | real_tree(child)
    return pairs


def test_drawing_equals_tree() -> None:
    assert drawn_tree() == real_tree()
