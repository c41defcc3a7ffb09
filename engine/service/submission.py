"""A request for a job: its source, options and owner."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from engine.jobs.options import StemSeparationOptions


@dataclass(frozen=True)
class Upload:
    """A file that arrives as a stream, cut off at the size limit.

    `late_options` reads options that follow the file; they replace those of the submission.
    """

    filename: str
    stream: AsyncIterator[bytes]
    declared_bytes: int | None = None
    late_options: Callable[[], Awaitable[StemSeparationOptions]] | None = None


@dataclass(frozen=True)
class Attachment:
    """A file to download from one of the allowed hosts (`settings.discord.cdn_hosts`)."""

    filename: str
    url: str
    declared_bytes: int | None = None


@dataclass(frozen=True)
class Link:
    """Text that contains one YouTube link."""

    text: str


@dataclass(frozen=True)
class Submission:
    """One request.

    `owner`: "discord:<user>", "ip:<address>" or "local". `scope`: the Discord server. `place`: the channel whose
    members may see the job. `job_id`: set by a front end that records the job before it is submitted.
    """

    source: Upload | Attachment | Link
    options: StemSeparationOptions
    owner: str
    scope: str | None = None
    place: str | None = None
    job_id: str | None = None
