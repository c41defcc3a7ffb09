"""Texts that users read are in the text modules of the bot's folders, so that a language touches nothing else."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

BOT = Path(__file__).parents[3] / "bot"
FOR_OPERATORS = ("__main__.py", "connection.py", "sync.py")  # their texts are in the log
_WORD = re.compile("[A-Za-z]{2,}")
_LABEL = re.compile("[A-Z][a-z]+[…:.]?")


def test_texts_for_users_are_in_text_modules() -> None:
    modules = [path for path in sorted(BOT.rglob("*.py")) if path.name not in ("text.py", *FOR_OPERATORS)]
    found = {
        f"{path.relative_to(BOT)}:{line}": text
        for path in modules
        if path.parent.name != "database"  # SQL
        for line, text in _texts(path.read_text())
    }
    assert found == {}


def test_texts_are_found() -> None:
    source = '"""Not this."""\nlog.info("nor this one")\nx: list["Job"] = f(f"{n} of the songs", "Cancel", "job_id")\n'
    assert list(_texts(source)) == [(3, "{} of the songs"), (3, "Cancel")]


def _texts(source: str) -> Iterator[tuple[int, str]]:
    """Yield the literals that have two words or are a capitalized one, except docstrings, logs and annotations."""
    tree = ast.parse(source)
    skipped = {id(part) for node in ast.walk(tree) for each in _unread(node) for part in ast.walk(each)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        text = _text_of(node)
        if isinstance(node, ast.JoinedStr):
            skipped |= {id(part) for part in node.values if isinstance(part, ast.Constant)}
        if text is not None and (_LABEL.fullmatch(text) or (" " in text.strip() and len(_WORD.findall(text)) > 1)):
            yield node.lineno, text  # type: ignore[attr-defined]


def _text_of(node: ast.AST) -> str | None:
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _unread(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the parts of a node whose literals users do not read."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        yield node  # a docstring
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) == "log":
        yield node
    if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
        yield node.annotation
    if isinstance(node, ast.ClassDef):
        yield from node.bases
