"""Songs for the tests of workers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixtures.songs import make_song


@pytest.fixture(scope="session")
def song(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("songs") / "song.wav"
    make_song(path, seconds=5)
    return path


@pytest.fixture(scope="session")
def long_song(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a song long enough to be interrupted while it is separated."""
    path = tmp_path_factory.mktemp("songs") / "long.mp3"
    make_song(path, seconds=20)
    return path
