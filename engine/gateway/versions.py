"""Compare the versions of code on the machines of a cluster."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("demucs", "torch")


@cache
def versions() -> dict[str, str]:
    """Return versions of all code that affects the stems; Stemify's is a digest of its source.

    Ray and Python are compared with the head: see `engine.gateway.head`.
    """
    result = {"Stemify": _digest(Path(__file__).parent.parent)}
    for package in _PACKAGES:
        try:
            result[package] = version(package).partition("+")[0]  # CPU and CUDA builds of torch are equal
        except PackageNotFoundError:
            result[package] = "none"
    return result


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(file.relative_to(folder).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


def describe_mismatch(here: Mapping[str, str], there: Mapping[str, str]) -> str | None:
    """Return a sentence about the versions that differ, or None."""
    differing = [
        f"{name} {there.get(name, 'none')} instead of {here[name]}" for name in here if there.get(name) != here[name]
    ]
    if not differing:
        return None
    return f"It has {' and '.join(differing)}. Install the bot's versions there."
