"""A local storage for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.storage.local import LocalStorage


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "data")
