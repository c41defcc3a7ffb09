"""What must be the same on every machine of a cluster, and the sentence when it is not."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("demucs", "torch")


@cache
def versions() -> dict[str, str]:
    """Of Stemify's own code (as a digest: a version number does not change with every commit) and of what decides how
    the stems sound. Ray and Python are compared by Ray."""
    found = {"Stemify": _digest(Path(__file__).parent.parent)}
    for package in _PACKAGES:
        try:
            found[package] = version(package).partition("+")[0]  # a CPU and a CUDA build of torch are the same one
        except PackageNotFoundError:
            found[package] = "none"
    return found


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(file.relative_to(folder).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


def describe_mismatch(here: Mapping[str, str], there: Mapping[str, str]) -> str | None:
    """A sentence about what differs on a machine; None: nothing."""
    differing = [
        f"{name} {there.get(name, 'none')} instead of {here[name]}" for name in here if there.get(name) != here[name]
    ]
    if not differing:
        return None
    return f"It has {' and '.join(differing)}: install there what the bot has."
