"""The rules of the tree that a newcomer relies on."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
MOST_LINES = 320
LONGEST_TEST_NAME = 60


def test_architecture_lists_every_part_of_engine() -> None:
    rows = _first_column("| in `engine/` | subject |")
    assert sorted(rows) == sorted(_parts(ROOT / "engine"))


def test_architecture_lists_every_folder_of_separation() -> None:
    folders = {row for row in _first_column("| folder | subject |") if row.endswith("/")}
    assert folders == {part for part in _parts(ROOT / "engine" / "separation") if part.endswith("/")} - {"embedded/"}


def test_architecture_lists_every_part_of_bot() -> None:
    rows = _first_column("| in `bot/` | subject |")
    assert sorted(rows) == sorted(_parts(ROOT / "bot"))


def test_engine_and_bot_have_few_files_at_the_top() -> None:
    for package, most in (("engine", 8), ("bot", 10)):
        files = [path for path in (ROOT / package).iterdir() if path.is_file()]
        assert len(files) <= most, files


def test_no_module_is_too_long() -> None:
    packages = ("bot", "config", "engine", "training", "bench", "tests")
    modules = {path for package in packages for path in _modules(package)}
    assert [path for path in modules if len(path.read_text().splitlines()) > MOST_LINES] == []


def test_no_test_name_is_too_long() -> None:
    names = re.findall(r"def (test_\w+)", "\n".join(path.read_text() for path in _modules("tests")))
    assert len(names) > 500 and [name for name in names if len(name) > LONGEST_TEST_NAME] == []


def _first_column(heading: str) -> list[str]:
    """Return the names in backticks that begin the rows of the table below `heading` in docs/architecture.md."""
    _, _, rest = (ROOT / "docs" / "architecture.md").read_text().partition(heading)
    table, _, _ = rest.partition("\n\n")
    return re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)


def _parts(folder: Path) -> set[str]:
    """Return folders, with a slash, and modules, except `__init__.py` and `__main__.py`."""
    folders = {f"{path.name}/" for path in folder.iterdir() if path.is_dir() and path.name != "__pycache__"}
    modules = {path.name for path in folder.glob("*.py")} - {"__init__.py", "__main__.py"}
    return folders | modules


def _modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))
