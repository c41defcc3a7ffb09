"""From a request to a job: fetched, capped, probed, counted, stored. Refusals come before a job exists."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import aiohttp
import aiosqlite

from engine.entity import new_job_id
from engine.errors import (
    AlreadyAccepted,
    LinksNotYet,
    ModelUnavailable,
    NotPossibleNow,
    ShortOfRoom,
    StorageFailed,
    TooLarge,
)
from engine.estimates import estimate_s, first_guess, plan_cost
from engine.jobs import InputType, Job, JobStatus
from engine.media.in_child import probe
from engine.media.limits import MediaLimits
from engine.media.probe import Probe
from engine.naming import safe_title
from engine.options import StemSeparationOptions
from engine.pool import WorkerPool
from engine.quota import Quota
from engine.sources.link import parse_link
from engine.sources.upload import fetch_attachment
from engine.sources.youtube import Youtube
from engine.storage import Storage
from engine.store.store import Caps, Store

log = logging.getLogger(__name__)

_PROBES_AT_ONCE = 2
_LIVING_RETRIES = "SELECT status FROM jobs WHERE owner = :owner AND retry_of = :old AND status <> 'failed'"
_LOOK_FOR_ROOM_S = 600.0
_GUESSED_LINK_S = 240.0  # length of a song that has not been fetched yet


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
class IntakeLimits:
    """What is accepted."""

    media: MediaLimits
    caps: Caps
    cdn_hosts: tuple[str, ...]
    links_enabled: bool
    free_disk_bytes: int = 0  # with less room than this nothing is accepted


class Intake:
    def __init__(
        self,
        store: Store,
        quota: Quota,
        storage: Storage,
        pool: WorkerPool,
        youtube: Youtube,
        limits: IntakeLimits,
        http: aiohttp.ClientSession,
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._quota = quota
        self._storage = storage
        self._pool = pool
        self._youtube = youtube
        self._limits = limits
        self._http = http
        self._now = now
        self._probing = asyncio.Semaphore(_PROBES_AT_ONCE)

    async def accept(self, submission: Submission) -> Job:
        """The stored job. Raises `InputRefused`, `ComeBackLater` (and below) or `ModelUnavailable`; then nothing is
        left of the request and no quota is spent."""
        self._check_model(submission.options.model)
        await asyncio.to_thread(self._check_room)
        await self._quota.check(submission.owner)
        job_id = submission.job_id or new_job_id(self._now())
        if submission.job_id and await self._store.get(job_id) is not None:
            raise AlreadyAccepted
        adding: asyncio.Future[None] | None = None
        try:
            if isinstance(submission.source, Link):
                job = await self._job_of_link(job_id, submission, submission.source)
            else:
                job = await self._job_of_file(job_id, submission, submission.source)
            # Caps, quota and job in one transaction: all of it, or a refusal that costs nothing.
            adding = asyncio.ensure_future(
                self._store.add(job, self._limits.caps, also=self._quota.spending(job.owner))
            )
            await asyncio.shield(adding)
        except BaseException:
            await self._undo(job_id, adding)
            raise
        return job

    async def again(self, old: Job, fresh_id: str | None, model: str | None = None) -> Job:
        """A new pending job with the input and options of one that failed, by another `model` where one is named, at
        no cost to the quota (one that was cancelled costs as any other). Raises `NotPossibleNow`, `QueueFull`,
        `QuotaExceeded`, `UnknownModel`, `ModelUnavailable`."""
        if old.status is not JobStatus.FAILED:
            raise NotPossibleNow("Only a job that failed can be tried again.")
        options = old.options
        if model is not None:
            options = StemSeparationOptions.chosen(**old.options.model_dump(exclude={"model"}), model=model)
        self._check_model(options.model)
        await asyncio.to_thread(self._check_room)
        job_id, now = fresh_id or new_job_id(self._now()), self._now()
        source = old.input_source
        if old.input_type is InputType.FILE_UPLOAD:
            source = f"jobs/{job_id}/input"
            if not await self._storage.copy(old.input_source, source):
                raise NotPossibleNow("The file of this job is no longer here. Please send it again.")
        kept = old.model_dump(
            exclude={"status", "progress", "error", "error_code", "actual_duration", "attempt", "stage"}
        )
        fresh = {"id": job_id, "status": JobStatus.PENDING, "created_at": now, "updated_at": now}
        chosen = {"model": options.model, "options": options}
        duration = {"estimated_duration": await self._estimated_s(options, old.input_duration)}
        job = Job.model_validate({**kept, **fresh, **chosen, **duration, "input_source": source, "retry_of": old.id})
        adding = asyncio.ensure_future(self._store.add(job, self._limits.caps, also=self._once(old)))
        try:
            await asyncio.shield(adding)
        except BaseException:
            await self._undo(job_id, adding)
            raise
        return job

    async def _undo(self, job_id: str, adding: asyncio.Future[None] | None) -> None:
        """Leave nothing of a refused request. When only the asker went away while the job was being stored, it is
        stored, and stands."""
        if adding is not None:
            await asyncio.wait([adding])
            if not adding.cancelled() and adding.exception() is None:
                return
        try:
            await asyncio.shield(self._storage.delete_job(job_id))
        except StorageFailed as error:  # the asker hears why he was refused; the sweeper comes by later
            log.warning("job %s: a refused request could not be removed: %s", job_id, error.detail or error.message)

    def _once(self, old: Job) -> Callable[[aiosqlite.Connection], Awaitable[None]]:
        """Part of storing a retry: one at a time, and free only where the failure was not the user's own wish."""

        async def check(writer: aiosqlite.Connection) -> None:
            rows = await writer.execute_fetchall(_LIVING_RETRIES, {"owner": old.owner, "old": old.id})
            living = [row[0] for row in rows]
            if len(living) > 1:  # the one that is being stored counts
                if "completed" in living:
                    raise NotPossibleNow("This song was tried again, and that went well. For more of it, send it anew.")
                raise NotPossibleNow("This job is already being tried again.")
            if old.was_cancelled:
                await self._quota.spending(old.owner)(writer)

        return check

    def _check_model(self, name: str) -> None:
        state = self._pool.models.get(name)
        if state is not None and state.state == "unavailable":
            raise ModelUnavailable(f"The model {name} cannot be used here: {state.reason}")

    def _check_room(self) -> None:
        """A disk that is nearly full is for the jobs that were accepted, and for the database."""
        free_bytes = shutil.disk_usage(self._storage.root).free
        if free_bytes < self._limits.free_disk_bytes:
            log.error("a song was refused: %d MiB are free in %s", free_bytes >> 20, self._storage.root)
            raise ShortOfRoom(retry_after_s=_LOOK_FOR_ROOM_S)

    async def _job_of_link(self, job_id: str, submission: Submission, link: Link) -> Job:
        video = parse_link(link.text)
        if not self._limits.links_enabled:
            raise LinksNotYet
        self._youtube.check_open()
        return await self._new_job(
            job_id, submission, InputType.YOUTUBE_URL, video.url, title=f"YouTube {video.video_id}"
        )

    async def _job_of_file(self, job_id: str, submission: Submission, source: Upload | Attachment) -> Job:
        key = f"jobs/{job_id}/input"
        media = self._limits.media
        if (source.declared_bytes or 0) > media.max_bytes:
            raise TooLarge.over(media.max_bytes, source.declared_bytes)
        if isinstance(source, Upload):
            stream = source.stream
        else:
            stream = fetch_attachment(
                self._http, source.url, allowed_hosts=self._limits.cdn_hosts, max_bytes=media.max_bytes
            )
        size_bytes = await self._storage.receive(stream, key, media.max_bytes)
        async with self._probing:
            found: Probe = await probe(self._storage.local_path(key), media)
        await self._storage.upload(key)
        return await self._new_job(
            job_id,
            submission,
            InputType.FILE_UPLOAD,
            key,
            title=safe_title(found.title or Path(source.filename).stem),
            artist=found.artist,
            input_size=size_bytes,
            duration_s=found.duration_s,
        )

    async def _new_job(
        self,
        job_id: str,
        submission: Submission,
        input_type: InputType,
        input_source: str,
        *,
        title: str,
        artist: str | None = None,
        input_size: int = 0,
        duration_s: float | None = None,
    ) -> Job:
        options, now = submission.options, self._now()
        return Job(
            id=job_id,
            status=JobStatus.PENDING,
            created_at=now,
            updated_at=now,
            input_type=input_type,
            input_source=input_source,
            model=options.model,
            options=options,
            estimated_duration=await self._estimated_s(options, duration_s),
            owner=submission.owner,
            scope=submission.scope,
            place=submission.place,
            title=title,
            artist=artist,
            input_size=input_size,
            input_duration=duration_s,
        )

    async def _estimated_s(self, options: StemSeparationOptions, duration_s: float | None) -> int:
        device = self._pool.device
        speed = await self._store.speed(options.model, options.quality, device)
        speed = (speed or first_guess(options.model, options.quality, device)) * plan_cost(options)
        return estimate_s(speed, duration_s or _GUESSED_LINK_S)
