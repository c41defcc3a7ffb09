"""`StemService`, the one door to the backend: submit, get, list, watch, cancel, delete, retry, keep.

Front ends (Discord, HTTP, the command line) know this class and the entities in `engine.jobs`, nothing deeper.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import aiohttp

from engine.dispatcher import Dispatcher
from engine.errors import (
    LinksNotYet,
    ModelUnavailable,
    NotAllowed,
    NotFound,
    NotPossibleNow,
    StemifyError,
)
from engine.estimates import estimate_s, eta_s, first_guess, remaining_s
from engine.jobs import (
    MODELS,
    FileLink,
    InputType,
    Job,
    JobStatus,
    JobView,
    StemSeparationOptions,
    new_job_id,
)
from engine.links import Links
from engine.media.limits import MediaLimits
from engine.media.probe import Probe, probe
from engine.naming import safe_title
from engine.pool import WorkerPool
from engine.quota import Quota
from engine.sources.link import VideoLink, parse_link
from engine.sources.upload import fetch_attachment
from engine.storage import Storage
from engine.store.store import Caps, Store

_PROBES_AT_ONCE = 2
_GUESSED_LINK_S = 240.0


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


@dataclass(frozen=True)
class ServiceLimits:
    """What is accepted."""

    media: MediaLimits
    caps: Caps
    cdn_hosts: tuple[str, ...]
    links_enabled: bool
    link_lifetime: timedelta


@dataclass(frozen=True)
class WorkerSnapshot:
    """One worker as the operator sees it."""

    device: str
    ready: bool
    attempts: int
    deaths: int
    rss_bytes: int
    device_bytes: int | None


@dataclass(frozen=True)
class ServiceSnapshot:
    """The backend's health at one moment, for `/readyz` and `/metrics`."""

    jobs: dict[JobStatus, int]
    workers: tuple[WorkerSnapshot, ...]
    usable_models: tuple[str, ...]
    stage_seconds: dict[str, float] = field(default_factory=dict)  # summed over all attempts of this process
    audio_seconds: float = 0.0  # separated by this process
    processing_seconds: float = 0.0  # that this took


class StemService:
    def __init__(
        self,
        *,
        store: Store,
        quota: Quota,
        storage: Storage,
        links: Links,
        pool: WorkerPool,
        limits: ServiceLimits,
        http: aiohttp.ClientSession,
        now: Callable[[], datetime],
    ) -> None:
        """The dispatcher, which calls back, is set by `use`."""
        self._store = store
        self._quota = quota
        self._storage = storage
        self._links = links
        self._pool = pool
        self._limits = limits
        self._http = http
        self._now = now
        self._dispatcher: Dispatcher | None = None
        self._accepting = asyncio.Lock()
        self._probing = asyncio.Semaphore(_PROBES_AT_ONCE)
        self._watchers: dict[str, set[asyncio.Event]] = {}

    def use(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    @property
    def _runner(self) -> Dispatcher:
        assert self._dispatcher is not None, "the backend is not wired up"
        return self._dispatcher

    def changed(self, job_id: str) -> None:
        """Something about a job may have changed: wake those who watch it."""
        for event in self._watchers.get(job_id, ()):
            event.set()

    # Asking for a job

    async def submit(self, submission: Submission) -> JobView:
        """Accept a job, or raise: `InputRefused` (and below), `ComeBackLater` (and below), `ModelUnavailable`. A
        refusal costs no quota and leaves nothing behind. When this returns the job is on disk and survives any
        crash."""
        self._check_model(submission.options.model)
        await self._quota.check(submission.owner)
        job_id = submission.job_id or new_job_id(self._now())
        try:
            if isinstance(submission.source, Link):
                job = await self._job_of_link(job_id, submission, submission.source)
            else:
                job = await self._job_of_file(job_id, submission, submission.source)
            await self._accept(job)
        except BaseException:
            await asyncio.shield(self._storage.delete_job(job_id))
            raise
        self._runner.wake()
        return await self._view(job)

    async def _accept(self, job: Job) -> None:
        """Count and store, one job at a time, so that caps and quota cannot be overrun side by side."""
        async with self._accepting:
            await self._quota.check(job.owner)
            await self._store.add(job, self._limits.caps)
            await self._quota.spend(job.owner)

    def _check_model(self, name: str) -> None:
        state = self._pool.models.get(name)
        if state is not None and state.state == "unavailable":
            raise ModelUnavailable(f"The model {name} cannot be used here: {state.reason}")

    async def _job_of_link(self, job_id: str, submission: Submission, link: Link) -> Job:
        video: VideoLink = parse_link(link.text)
        if not self._limits.links_enabled:
            raise LinksNotYet
        return await self._new_job(
            job_id,
            submission,
            input_type=InputType.YOUTUBE_URL,
            input_source=video.url,
            title=f"YouTube {video.video_id}",
            duration_s=None,
        )

    async def _job_of_file(self, job_id: str, submission: Submission, source: Upload | Attachment) -> Job:
        key = f"jobs/{job_id}/input"
        max_bytes = self._limits.media.max_bytes
        if source.declared_bytes is not None:
            self._limits.media.check_size(source.declared_bytes)
        if isinstance(source, Upload):
            stream = source.stream
        else:
            stream = fetch_attachment(self._http, source.url, allowed_hosts=self._limits.cdn_hosts, max_bytes=max_bytes)
        size = await self._storage.receive(stream, key, max_bytes)
        async with self._probing:
            found: Probe = await probe(self._storage.local_path(key), self._limits.media)
        return await self._new_job(
            job_id,
            submission,
            input_type=InputType.FILE_UPLOAD,
            input_source=key,
            title=safe_title(found.title or Path(source.filename).stem),
            artist=found.artist,
            input_size=size,
            duration_s=found.duration_s,
        )

    async def _new_job(
        self,
        job_id: str,
        submission: Submission,
        *,
        input_type: InputType,
        input_source: str,
        title: str,
        duration_s: float | None,
        artist: str | None = None,
        input_size: int = 0,
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
            estimated_duration=await self._estimate_s(options, duration_s or _GUESSED_LINK_S),
            owner=submission.owner,
            scope=submission.scope,
            place=submission.place,
            title=title,
            artist=artist,
            input_size=input_size,
            input_duration=duration_s,
        )

    async def _estimate_s(self, options: StemSeparationOptions, audio_s: float) -> int:
        device = self._pool.device
        learned = await self._store.speed(options.model, options.quality, device)
        return estimate_s(learned or first_guess(options.model, options.quality, device), audio_s)

    async def retry(self, job_id: str, *, by: str, new_id: str | None = None) -> JobView:
        """A new job with the input and options of a failed one, at no cost to the quota. Raises `NotFound`,
        `NotAllowed`, `NotPossibleNow`."""
        old = await self._owned(job_id, by)
        if old.status is not JobStatus.FAILED:
            raise NotPossibleNow("Only a job that failed can be tried again.")
        fresh_id, now = new_id or new_job_id(self._now()), self._now()
        key = old.input_source
        if old.input_type is InputType.FILE_UPLOAD:
            key = f"jobs/{fresh_id}/input"
            if not await self._storage.copy(old.input_source, key):
                raise NotPossibleNow("The file of this job is no longer here. Please send it again.")
        job = Job(
            id=fresh_id,
            status=JobStatus.PENDING,
            created_at=now,
            updated_at=now,
            input_source=key,
            retry_of=old.id,
            **old.model_dump(
                include={
                    "input_type", "model", "options", "estimated_duration", "owner", "scope", "place", "title",
                    "artist", "input_size", "input_duration",
                }
            ),
        )  # fmt: skip
        try:
            async with self._accepting:
                await self._store.add(job, self._limits.caps)
        except StemifyError:
            await self._storage.delete_job(fresh_id)
            raise
        self._runner.wake()
        return await self._view(job)

    # Looking at jobs

    async def get(self, job_id: str) -> JobView:
        """The job as it is now, archived ones too. Raises `NotFound`."""
        return await self._view(await self._job(job_id))

    async def list(self, owner: str, *, limit: int = 25, active_only: bool = False) -> list[JobView]:
        """The owner's jobs, newest first."""
        jobs = await self._store.list_of(owner, limit=limit, active_only=active_only)
        return [await self._view(job) for job in jobs]

    async def watch(self, job_id: str) -> AsyncIterator[JobView]:
        """The current state at once, then every change (coalesced when the reader is slow), ends after a terminal
        state. Raises `NotFound`."""
        event = asyncio.Event()
        self._watchers.setdefault(job_id, set()).add(event)
        try:
            shown: JobView | None = None
            while True:
                event.clear()
                view = await self.get(job_id)
                if shown is None or _differs(shown, view):
                    shown = view
                    yield view
                if view.job.is_over:
                    return
                with contextlib.suppress(TimeoutError):
                    # Places in the queue move without a word about this job, so look now and then.
                    await asyncio.wait_for(event.wait(), 5.0)
        finally:
            watchers = self._watchers.get(job_id, set())
            watchers.discard(event)
            if not watchers:
                self._watchers.pop(job_id, None)

    async def _job(self, job_id: str) -> Job:
        try:
            job = await self._store.get(job_id)
        except ValueError:
            job = None
        if job is None:
            raise NotFound
        live = self._runner.live.get(job.id)
        if live is not None and job.status is JobStatus.PROCESSING:
            job = job.model_copy(
                update={"progress": max(job.progress, live.progress), "stage": live.stage or job.stage}
            )
        return job

    async def _owned(self, job_id: str, by: str) -> Job:
        job = await self._job(job_id)
        if job.owner != by:
            raise NotAllowed
        return job

    async def _view(self, job: Job) -> JobView:
        if job.status is JobStatus.PENDING:
            place = await self._store.queue_place(job.id)
            ahead = await self._store.pending_ahead(job.id)
            eta = eta_s(
                job,
                running_s=[remaining_s(other, live, elapsed) for other, live, elapsed in await self._running()],
                ahead_s=[float(other.estimated_duration) for other in ahead],
                lanes=sum(1 for worker in self._pool.workers if worker.ready),
            )
            return JobView(job=job, queue_place=place, eta_s=eta, page_url=self._page_url(job))
        if job.status is JobStatus.PROCESSING:
            live = self._runner.live.get(job.id)
            elapsed_s = time.monotonic() - live.started_at if live else 0.0
            return JobView(job=job, eta_s=remaining_s(job, job.progress, elapsed_s), page_url=self._page_url(job))
        if job.status is JobStatus.COMPLETED:
            expires = self._expiry(job)
            return JobView(
                job=job, links=self._file_links(job, expires), page_url=self._page_url(job), links_expire_at=expires
            )
        return JobView(job=job, page_url=self._page_url(job))

    async def _running(self) -> list[tuple[Job, int, float]]:
        now = time.monotonic()
        found = []
        for job in await self._store.processing():
            live = self._runner.live.get(job.id)
            found.append((job, live.progress if live else job.progress, now - live.started_at if live else 0.0))
        return found

    # Links and files

    def _expiry(self, job: Job) -> datetime | None:
        return None if job.keep else job.updated_at + self._limits.link_lifetime

    def _page_url(self, job: Job) -> str:
        return self._links.page(job.id, job.created_at + 2 * self._limits.link_lifetime)

    def _file_links(self, job: Job, expires: datetime | None) -> tuple[FileLink, ...]:
        assert job.result is not None
        until = expires or self._now() + self._limits.link_lifetime
        files = [
            FileLink(name=name, filename=info.filename, url=self._links.file(info.path, until), size=info.size)
            for name, info in job.result.stems
        ]
        archive = FileLink(name="zip", filename=f"{safe_title(job.title)}.zip", url=self._links.zip(job.id, until))
        return (*files, archive)

    @asynccontextmanager
    async def open_file(self, job: Job, name: str) -> AsyncIterator[Path]:
        """One file of a completed job ("vocals", …, "waveform", "peaks") as a local path, for as long as the context
        lasts. Raises `NotFound`."""
        result = job.result
        if result is None:
            raise NotFound
        keys = {stem: info.path for stem, info in result.stems}
        keys |= {"waveform": result.waveform_path or "", "peaks": result.peaks_path or ""}
        if not keys.get(name) or not (path := self._storage.local_path(keys[name])).is_file():
            raise NotFound("That file is no longer here.")
        yield path

    # Ending jobs

    async def cancel(self, job_id: str, *, by: str) -> JobView:
        """End a queued or running job, within two seconds. A job that is over stays as it is. Raises `NotFound`,
        `NotAllowed`."""
        job = await self._owned(job_id, by)
        await self._runner.cancel(job.id)
        self.changed(job.id)
        return await self.get(job.id)

    async def delete(self, job_id: str, *, by: str) -> None:
        """Cancel if needed, then remove files and row. Raises `NotFound`, `NotAllowed`."""
        job = await self._owned(job_id, by)
        await self._runner.cancel(job.id)
        await self._storage.delete_job(job.id)
        await self._store.delete(job.id)
        self.changed(job.id)

    async def delete_everything_of(self, owner: str) -> int:
        """Delete all jobs of an owner; how many there were."""
        gone = 0
        while jobs := await self._store.list_of(owner, limit=100):
            for job in jobs:
                await self.delete(job.id, by=owner)
                gone += 1
        return gone

    async def keep(self, job_id: str, *, by: str) -> JobView:
        """Keep the stems beyond their time, until they are deleted."""
        job = await self._owned(job_id, by)
        if job.status is not JobStatus.COMPLETED:
            raise NotPossibleNow("Only the stems of a completed job can be kept.")
        await self._store.keep(job.id, True)
        self.changed(job.id)
        return await self.get(job.id)

    # What there is

    def models(self) -> list[ModelChoice]:
        """What can be chosen, the usable ones first."""
        states = self._pool.models
        choices = []
        for name, description in MODELS.items():
            state = states.get(name)
            usable = state is None or state.state != "unavailable"
            choices.append(ModelChoice(name, description, usable, None if usable or state is None else state.reason))
        return sorted(choices, key=lambda choice: not choice.usable)

    async def snapshot(self) -> ServiceSnapshot:
        """The backend's health now. Raises `StemifyError` when the store does not answer."""
        return ServiceSnapshot(
            jobs=await self._store.counts(),
            workers=tuple(
                WorkerSnapshot(
                    device=worker.config.device,
                    ready=worker.ready is not None,
                    attempts=worker.attempts,
                    deaths=worker.deaths,
                    rss_bytes=worker.heartbeat.rss_bytes if worker.heartbeat else 0,
                    device_bytes=worker.heartbeat.device_bytes if worker.heartbeat else None,
                )
                for worker in self._pool.workers
            ),
            usable_models=tuple(name for name, state in self._pool.models.items() if state.state != "unavailable"),
            stage_seconds=dict(self._runner.stage_seconds),
            audio_seconds=self._runner.audio_seconds,
            processing_seconds=self._runner.processing_seconds,
        )


def _differs(before: JobView, after: JobView) -> bool:
    """Whether a watcher should hear of it (an ETA alone moves all the time)."""
    return (before.job, before.queue_place, before.links_expire_at) != (
        after.job,
        after.queue_place,
        after.links_expire_at,
    )
