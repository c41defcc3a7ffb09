"""`StemService`, the one door to the backend: submit, get, list, watch, cancel, delete, retry, keep.

Front ends (Discord, HTTP, the command line) know this class and the entities in `engine.jobs`, nothing deeper.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

from engine.jobs import Job, JobView, StemSeparationOptions


@dataclass(frozen=True)
class Upload:
    """A file whose bytes arrive as a stream; it is cut off at the byte cap."""

    filename: str
    stream: AsyncIterator[bytes]
    declared_bytes: int | None = None


@dataclass(frozen=True)
class Attachment:
    """A file that lies at one of the allowed hosts (`settings.discord.cdn_hosts`) and is fetched from there."""

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


@dataclass(frozen=True)
class ModelChoice:
    """A model as a front end offers it. `usable` is what the workers said; `reason` why not."""

    name: str
    description: str
    usable: bool
    reason: str | None = None


class StemService:
    async def submit(self, submission: Submission) -> JobView:
        """Accept a job, or raise: `InputRefused` (and below), `ComeBackLater` (and below). A refusal costs no quota
        and leaves nothing behind. When this returns the job is on disk and survives any crash."""
        raise NotImplementedError

    async def get(self, job_id: str) -> JobView:
        """The job as it is now, archived ones too. Raises `NotFound`."""
        raise NotImplementedError

    async def list(self, owner: str, *, limit: int = 25, active_only: bool = False) -> list[JobView]:
        """The owner's jobs, newest first."""
        raise NotImplementedError

    def watch(self, job_id: str) -> AsyncIterator[JobView]:
        """The current state at once, then every change (coalesced when the reader is slow), ends after a terminal
        state. Raises `NotFound`."""
        raise NotImplementedError

    async def cancel(self, job_id: str, *, by: str) -> JobView:
        """End a queued or running job, within two seconds. A job that is over stays as it is. Raises `NotFound`,
        `NotAllowed`."""
        raise NotImplementedError

    async def delete(self, job_id: str, *, by: str) -> None:
        """Cancel if needed, then remove files and row. Raises `NotFound`, `NotAllowed`."""
        raise NotImplementedError

    async def delete_everything_of(self, owner: str) -> int:
        """Delete all jobs of an owner; how many there were."""
        raise NotImplementedError

    async def retry(self, job_id: str, *, by: str, new_id: str | None = None) -> JobView:
        """A new job with the input and options of a failed one, at no cost to the quota. Raises `NotFound`,
        `NotAllowed`, `NotPossibleNow`."""
        raise NotImplementedError

    async def keep(self, job_id: str, *, by: str) -> JobView:
        """Keep the stems beyond their time, until they are deleted."""
        raise NotImplementedError

    def open_file(self, job: Job, name: str) -> AbstractAsyncContextManager[Path]:
        """One file of a completed job ("vocals", …, "waveform", "peaks") as a local path, for as long as the context
        lasts. Raises `NotFound`."""
        raise NotImplementedError

    def models(self) -> list[ModelChoice]:
        """What can be chosen, the usable ones first."""
        raise NotImplementedError
