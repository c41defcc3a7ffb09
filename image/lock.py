"""`python image/lock.py`: write the requirements of the image, with hashes, from the versions in constraints.txt.

Needs `uv` and a network. torch is left out: the Dockerfile installs it from another index.
"""

from __future__ import annotations

import subprocess
import tomllib
from collections.abc import Iterable
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
EXTRAS = ("cluster", "voice")
FILES = {"requirements.txt": (), **{f"requirements-{extra}.txt": (extra,) for extra in EXTRAS}}  # name → extras
_ONLY_WITH_CUDA = ("nvidia", "triton", "cuda")


def pinned(extras: Iterable[str] = ()) -> list[str]:
    """Return "name==version" of every installed package that Stemify imports."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found: dict[str, str] = {}
    needed = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    waiting = [(line, frozenset[str]()) for line in needed]
    done = set()
    while waiting:
        line, extras_of_parent = waiting.pop()
        requirement = Requirement(line)
        names = {"", *extras_of_parent}
        if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in names):
            continue
        name = canonicalize_name(requirement.name)
        if name.startswith(_ONLY_WITH_CUDA) or (name, *requirement.extras) in done:
            continue
        done.add((name, *requirement.extras))
        installed = distribution(name)
        if name != "torch":
            found[name] = installed.version
        waiting += [(each, frozenset(requirement.extras)) for each in installed.requires or []]
    return [f"{name}=={version}" for name, version in sorted(found.items())]


def main() -> None:
    everywhere = pinned()
    for name, extras in FILES.items():
        lines = [line for line in pinned(extras) if not extras or line not in everywhere]
        subprocess.run(
            ["uv", "pip", "compile", "-", "--no-deps", "--generate-hashes", "--no-annotate",  # noqa: S607
             "--python-version", "3.11", "--custom-compile-command", "python image/lock.py",
             "--output-file", str(ROOT / "image" / name)],
            input="\n".join(lines), text=True, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip


if __name__ == "__main__":
    main()
