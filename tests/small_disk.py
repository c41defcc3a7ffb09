"""A disk of a given size, of which only the files below one folder take space."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


class SmallDisk:
    """What `shutil.disk_usage` reports in `engine.storage.disk_space` while `monkeypatch` lasts."""

    def __init__(self, root: Path, size_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.size_bytes = size_bytes
        self.least_free_bytes = size_bytes
        real = shutil.disk_usage(root)
        monkeypatch.setattr(
            "engine.storage.disk_space.shutil.disk_usage", lambda _path: real._replace(free=self.free_bytes())
        )

    def free_bytes(self) -> int:
        free_bytes = self.size_bytes
        for path in self.root.rglob("*"):
            try:
                free_bytes -= path.stat().st_size if path.is_file() and "sqlite3" not in path.name else 0
            except FileNotFoundError:
                continue
        self.least_free_bytes = min(self.least_free_bytes, free_bytes)
        return free_bytes
