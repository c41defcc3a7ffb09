"""Download a job's link into the job's folder, and examine the file like an upload."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from engine.jobs.job import Job
from engine.media.limits import MediaLimits
from engine.media.sandbox import probe_in_sandbox
from engine.sources.youtube.downloader import Youtube
from engine.sources.youtube.link import parse_link
from engine.storage.disk_space import DiskSpace
from engine.storage.storage import Storage
from engine.text import safe_title


@dataclass(frozen=True)
class FetchedInput:
    """Facts about a downloaded file in the job's folder."""

    title: str
    artist: str | None
    size_bytes: int
    duration_s: float


class FetchLink(Protocol):
    """Download a job's link into storage. Raises `SourceFailed` or `InputRefused` (or a subclass)."""

    async def __call__(self, job: Job, on_progress: Callable[[float], None]) -> FetchedInput: ...


class LinkFetcher:
    """Fetch links with `Youtube`."""

    def __init__(self, youtube: Youtube, storage: Storage, disk_space: DiskSpace, limits: MediaLimits) -> None:
        self._youtube = youtube
        self._storage = storage
        self._disk_space = disk_space
        self._limits = limits

    async def __call__(self, job: Job, on_progress: Callable[[float], None]) -> FetchedInput:
        """Download the link, examine the file and publish it. Raises as `FetchLink` does."""
        folder = self._storage.local_path(f"scratch/{job.id}-a{job.attempt}")
        await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
        try:
            with self._disk_space.grant(self._limits.max_bytes):
                download = await self._youtube.fetch(parse_link(job.input_source), folder, on_progress=on_progress)
            info = await probe_in_sandbox(download.path, self._limits)
            size_bytes = download.path.stat().st_size
            await self._storage.publish(download.path, f"jobs/{job.id}/input")
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        return FetchedInput(
            title=safe_title(download.title or info.title),
            artist=download.artist or info.artist,
            size_bytes=size_bytes,
            duration_s=info.duration_s,
        )
