"""Download the audio of YouTube videos, each in a child process (`child.py`) that can always be killed.

There are two deadlines (for the metadata and in total), limits on bytes and duration, a private copy of the operator's
cookies, and a pause after YouTube refused this server. yt_dlp is never imported here, so an update of it takes effect
at the next download without a restart.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from engine.errors import AttemptError, DiskFull, LinksDisabled, is_disk_full
from engine.sources.errors import (
    VideoTooLong,
    YoutubeFetcherDied,
    YoutubeForbidden,
    YoutubeNotSetUp,
    YoutubeTimedOut,
)
from engine.sources.youtube.circuit_breaker import Breaker, Outcome
from engine.sources.youtube.classify import ABOUT_THE_VIDEO, REFUSALS_OF_THIS_SERVER, Failure, classify
from engine.sources.youtube.link import VideoLink
from engine.sources.youtube.process import downloading
from engine.text import format_duration, printable_line

log = logging.getLogger(__name__)

MINIMUM_YTDLP = (2026, 8, 19)
METADATA_SHARE = 0.2  # progress when the title is known
NAME_CHARACTERS = 200
# Variables copied to the child: how to reach the network, and no other secrets.
PASSED_ON = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ld_library_path", "ssl_cert_dir")


@dataclass(frozen=True)
class DownloadedAudio:
    """The audio of a video in YouTube's own format: Opus in webm, or AAC in m4a.

    `duration_s` is stated by YouTube and can be wrong.
    """

    path: Path
    title: str
    artist: str | None
    duration_s: float | None
    ytdlp_version: str


def version() -> str:
    """Return the version of the yt-dlp that is installed now. Raises `YoutubeNotSetUp`."""
    try:
        return metadata.version("yt-dlp")
    except metadata.PackageNotFoundError:
        raise YoutubeNotSetUp(detail="yt-dlp is not installed") from None


def check_version() -> str:
    """Return the installed version if it is new enough. Raises `YoutubeNotSetUp`.

    pip silently installs an old version if a dependency does not fit.
    """
    installed = version()
    if tuple(int(part) for part in re.findall(r"\d+", installed)[:3]) < MINIMUM_YTDLP:
        least = ".".join(map(str, MINIMUM_YTDLP))
        raise YoutubeNotSetUp(detail=f"yt-dlp {installed} is too old, at least {least} is needed: docs/youtube.md")
    return installed


class Youtube:
    """Download the audio of videos.

    `total_timeout_s` includes a second try after a refused media address. `breaker_pause_s` is the pause after YouTube
    refused this server. `ca_file` contains certificates to trust instead of certifi's, for a proxy that intercepts
    TLS. `monotonic` is the breaker's clock in seconds.
    """

    def __init__(
        self,
        *,
        max_bytes: int,
        max_duration_s: float,
        metadata_timeout_s: float = 60.0,
        total_timeout_s: float = 120.0,
        socket_timeout_s: float = 10.0,
        breaker_pause_s: float = 3600.0,
        cookies_file: Path | None = None,
        proxy: SecretStr | None = None,
        ca_file: Path | None = None,
        enabled: bool = True,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_bytes = max_bytes
        self._max_duration_s = max_duration_s
        self._metadata_timeout_s = metadata_timeout_s
        self._total_timeout_s = total_timeout_s
        self._socket_timeout_s = socket_timeout_s
        self._cookies_file = cookies_file
        self._proxy = proxy
        self._ca_file = ca_file
        self._enabled = enabled
        self._breaker = Breaker(breaker_pause_s, monotonic)
        self._pause_s = breaker_pause_s

    @property
    def paused_for_s(self) -> float:
        """Seconds until YouTube is asked again after it refused this server; 0 if it may be asked now."""
        return self._breaker.paused_for_s

    def check_open(self) -> None:
        """Raise `YoutubePaused` while YouTube refuses this server, before a job is queued."""
        self._breaker.check()

    async def fetch(self, link: VideoLink, dest_dir: Path, *, on_progress: Callable[[float], None]) -> DownloadedAudio:
        """Download the audio of `link` into `dest_dir`; `on_progress` gets a growing fraction (0 to 1).

        Raises subclasses of `SourceFailed`, or `DiskFull`; `transient` tells whether to try again. On an error or
        cancellation no process and no file is left.
        """
        if not self._enabled:
            raise LinksDisabled
        try:
            installed = check_version()
        except YoutubeNotSetUp as error:
            log.error("youtube: %s", error.detail)
            raise
        trial = self._breaker.admit()
        outcome = Outcome.UNKNOWN
        started_s = time.monotonic()
        try:
            fetched = await self._fetch(link, dest_dir, installed, _monotonic_progress(on_progress))
            outcome = Outcome.ANSWERED
        except AttemptError as error:
            if isinstance(error, REFUSALS_OF_THIS_SERVER):
                outcome = Outcome.REFUSED
                error.retry_after_s = self._pause_s
            elif isinstance(error, ABOUT_THE_VIDEO):
                outcome = Outcome.ANSWERED
            log.warning("youtube %s: %s (%s), yt-dlp %s", link.video_id, error.code, error.detail, installed)
            raise
        finally:
            self._breaker.leave(outcome, trial=trial)
        log.info(
            "youtube %s: %d bytes in %.1f s, yt-dlp %s",
            link.video_id, fetched.path.stat().st_size, time.monotonic() - started_s, fetched.ytdlp_version,
        )  # fmt: skip
        return fetched

    async def _fetch(
        self, link: VideoLink, dest_dir: Path, installed: str, on_progress: Callable[[float], None]
    ) -> DownloadedAudio:
        try:
            async with asyncio.timeout(self._total_timeout_s):
                try:
                    return await self._try(link, dest_dir, installed, on_progress)
                except YoutubeForbidden:
                    # The media address may be stale: try once more from the start.
                    return await self._try(link, dest_dir, installed, on_progress)
        except TimeoutError:
            raise YoutubeTimedOut(detail=f"more than {self._total_timeout_s:g} s in total") from None
        except OSError as error:
            raise (DiskFull if is_disk_full(error) else YoutubeFetcherDied)(detail=str(error)) from error

    async def _try(
        self, link: VideoLink, dest_dir: Path, installed: str, on_progress: Callable[[float], None]
    ) -> DownloadedAudio:
        dest_dir = dest_dir.absolute()  # the child has another working directory
        with tempfile.TemporaryDirectory(prefix=".youtube-", dir=dest_dir) as name:  # mode 0700
            own_dir = Path(name)
            request = self._request(link, own_dir)
            async with downloading(request, cwd=own_dir, env=self._environment(own_dir)) as events:
                facts, path = await self._follow(events, on_progress)
            final = dest_dir / f"{link.video_id}{Path(path).suffix}"
            (own_dir / Path(path).name).replace(final)
        duration_s = facts.get("duration_s")
        return DownloadedAudio(
            path=final,
            title=_name(facts.get("title")) or link.video_id,
            artist=_name(facts.get("artist")) or None,
            duration_s=float(duration_s) if duration_s is not None else None,
            ytdlp_version=str(facts.get("version") or installed),
        )

    def _request(self, link: VideoLink, own_dir: Path) -> dict[str, object]:
        cookies: Path | None = None
        if self._cookies_file is not None:  # a copy, because yt-dlp writes cookies back to the file
            cookies = own_dir / "cookies.txt"
            try:
                shutil.copyfile(self._cookies_file, cookies)
            except OSError as error:
                raise YoutubeNotSetUp(detail=f"youtube.cookies_file: {error}") from None
        package = importlib.util.find_spec("yt_dlp")
        return {
            "url": link.url,
            "video_id": link.video_id,
            "dir": str(own_dir),
            "max_bytes": self._max_bytes,
            "max_duration_s": self._max_duration_s,
            "socket_timeout_s": self._socket_timeout_s,
            "cookies_file": str(cookies) if cookies else None,
            "proxy": self._proxy.get_secret_value() if self._proxy else None,
            "own_ca": self._ca_file is not None,
            # Isolated Python (-I) searches fewer folders.
            "package_dir": str(Path(package.origin).parent.parent) if package and package.origin else "",
        }

    def _environment(self, own_dir: Path) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if name.lower() in PASSED_ON}
        certificates = {"SSL_CERT_FILE": str(self._ca_file.resolve())} if self._ca_file else {}
        own = str(own_dir)
        return {
            **inherited,
            **certificates,
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": own,
            "TMPDIR": own,
            "XDG_CACHE_HOME": own,
            "DENO_DIR": own,
            "DENO_NO_UPDATE_CHECK": "1",
            "LANG": "C.UTF-8",
        }

    async def _follow(
        self, events: AsyncIterator[dict[str, Any]], on_progress: Callable[[float], None]
    ) -> tuple[dict[str, Any], str]:
        """Return the child's metadata and the path it wrote. Raises the error for its failure."""
        facts: dict[str, Any] = {}
        try:
            async with asyncio.timeout(self._metadata_timeout_s) as clock:
                async for event in events:
                    match event["event"]:
                        case "metadata":
                            clock.reschedule(None)
                            facts = event
                            on_progress(METADATA_SHARE)
                        case "progress" if event["total_bytes"]:
                            share = min(1.0, event["bytes"] / event["total_bytes"])
                            on_progress(METADATA_SHARE + (1 - METADATA_SHARE) * share)
                        case "done":
                            on_progress(1.0)
                            return facts, event["path"]
                        case "failed":
                            raise self._to_error(Failure.model_validate(event))
        except TimeoutError:
            raise YoutubeTimedOut(detail=f"no metadata within {self._metadata_timeout_s:g} s") from None
        raise YoutubeFetcherDied(detail="the child ended without a result")

    def _to_error(self, failure: Failure) -> AttemptError:
        if failure.reason == "too_long" and failure.duration_s is not None:
            return VideoTooLong(
                f"That video is {format_duration(failure.duration_s)} long; "
                f"the limit is {format_duration(self._max_duration_s)}. "
                "Choose a shorter one, or attach the file instead."
            )
        return classify(failure)


def _monotonic_progress(on_progress: Callable[[float], None]) -> Callable[[float], None]:
    """Return a callback that never goes back, although a second try starts from 0."""
    highest = 0.0

    def report(fraction: float) -> None:
        nonlocal highest
        if fraction > highest:
            highest = fraction
            on_progress(fraction)

    return report


def _name(text: object) -> str:
    return printable_line(text, NAME_CHARACTERS) if isinstance(text, str) else ""
