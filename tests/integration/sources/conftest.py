"""A fake YouTube, and the unmodified yt-dlp as its client."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from engine.sources.youtube.downloader import Youtube
from engine.sources.youtube.link import VideoLink
from tests.fakes.youtube import FakeYoutube
from tests.fixtures.songs import make_song

ID = "dQw4w9WgXcQ"
LINK = VideoLink.of(ID)
MIB = 1 << 20


@pytest.fixture(scope="session")
def song(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("song") / "song.webm"
    make_song(path, seconds=3, sample_rate=48000)
    return path.read_bytes()


@pytest.fixture
async def fake(tmp_path: Path) -> AsyncIterator[FakeYoutube]:
    (tmp_path / "fake").mkdir()
    async with FakeYoutube(tmp_path / "fake") as server:
        yield server


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    folder = tmp_path / "dest"
    folder.mkdir()
    return folder


def client(fake: FakeYoutube, **changes: Any) -> Youtube:
    arguments: dict[str, Any] = {
        "max_bytes": 50 * MIB,
        "max_duration_s": 600,
        "metadata_timeout_s": 30,
        "total_timeout_s": 60,
        "proxy": SecretStr(fake.proxy_url),
        "ca_file": fake.ca_file,
    }
    return Youtube(**{**arguments, **changes})


def silent(_: float) -> None:
    """Ignore progress."""


def pids_in(folder: Path) -> list[int]:
    """Return the ids of all processes whose working directory is in `folder`, even if it was deleted."""
    pids = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # of another user, a zombie, or ended
            if (process / "cwd").readlink().as_posix().startswith(folder.as_posix()):
                pids.append(int(process.name))
    return pids


def processes_in(folder: Path) -> list[str]:
    """Return the command lines of the processes in `folder`, and this process's zombies."""
    processes = []
    for pid in pids_in(folder):
        with suppress(OSError):
            processes.append(Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " "))
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, parent = (process / "stat").read_text().rpartition(")")[2].split()[:2]
            if state == "Z" and int(parent) == os.getpid():
                processes.append(f"unreaped {process.name}")
    return processes


async def until(condition: Callable[[], object], within_s: float = 20) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.02)
