"""A request for a job: its source, options and owner."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from engine.jobs.options import StemSeparationOptions

_BLOCK_BYTES = 1 << 18


@dataclass(frozen=True)
class Upload:
    """A file that arrives as a stream, cut off at the size limit.

    `late_options` reads options that follow the file; they replace those of the submission.
    """

    filename: str
    stream: AsyncIterator[bytes]
    declared_bytes: int | None = None
    late_options: Callable[[], Awaitable[StemSeparationOptions]] | None = None


def upload_of(path: Path) -> Upload:
    """Return the upload of a local file."""

    async def blocks() -> AsyncIterator[bytes]:
        with path.open("rb") as file:
            while block := await asyncio.to_thread(file.read, _BLOCK_BYTES):
                yield block

    return Upload(path.name, blocks(), path.stat().st_size)


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
    members may see the job. `job_id`: set by a front end that records the job before it is submitted. `key`: requests
    of one owner with the same key create one job. `min_duration_s`: shorter files are refused.
    """

    source: Upload | Attachment | Link
    options: StemSeparationOptions
    owner: str
    scope: str | None = None
    place: str | None = None
    job_id: str | None = None
    key: str | None = None
    min_duration_s: float = 0.0


class RequestDigest:
    """SHA-256 of a request's source and options, for the comparison of requests with the same key."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    async def pass_on(self, stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Add the blocks of a file while another reader consumes them."""
        async for block in stream:
            self._hash.update(block)
            yield block

    def of(self, source: Upload | Attachment | Link, options: StemSeparationOptions) -> str:
        """Return the digest, after the file was read."""
        name = source.text if isinstance(source, Link) else source.filename
        # A default model depends on what is on the machine by now, so the same request may have another one.
        left_out = None if "model" in options.model_fields_set else {"model"}
        self._hash.update(f"\0{name}\0{options.model_dump_json(exclude=left_out)}".encode())
        return self._hash.hexdigest()
