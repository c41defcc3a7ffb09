"""A request for a job: where the song comes from, the options, and who submits it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from engine.jobs.options import StemSeparationOptions


@dataclass(frozen=True)
class Upload:
    """A file whose bytes arrive as a stream; it is cut off at the byte cap.

    `late_options` reads the options that follow the file; they replace those of the submission."""

    filename: str
    stream: AsyncIterator[bytes]
    declared_bytes: int | None = None
    late_options: Callable[[], Awaitable[StemSeparationOptions]] | None = None


@dataclass(frozen=True)
class Attachment:
    """A file to be downloaded from one of the allowed hosts (`settings.discord.cdn_hosts`)."""

    filename: str
    url: str
    declared_bytes: int | None = None


@dataclass(frozen=True)
class Link:
    """Text with one YouTube link in it."""

    text: str


@dataclass(frozen=True)
class Submission:
    """One request. `owner` is who asks ("discord:<user>", "ip:<address>", "local"), `scope` what they ask in (a
    Discord server), `place` the channel whose members may see the job; `job_id` lets a front end write down first
    what it is about to submit."""

    source: Upload | Attachment | Link
    options: StemSeparationOptions
    owner: str
    scope: str | None = None
    place: str | None = None
    job_id: str | None = None
