"""`StemService`, the interface of the backend: submit, get, list, watch, cancel, delete, retry, keep.

Front ends (Discord, HTTP, the command line) use this class and the entities in `engine.jobs`, nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from engine.database.job_search import find_jobs
from engine.database.job_store import JobStore
from engine.database.quota import Allowance
from engine.database.request_keys import RequestSeen
from engine.dispatch.dispatcher import Dispatcher
from engine.dispatch.progress import ProgressTracker
from engine.errors import InvalidState, NotAllowed, NotFound, StemifyError
from engine.jobs.job import Job, JobStatus, JobView
from engine.jobs.models import MODELS
from engine.jobs.options import Quality, StemSeparationOptions
from engine.mixes.cache import StoredMix
from engine.mixes.entities import Mix, MixRequest, Version, VersionRequest
from engine.mixes.mixer import Mixer, completed_result
from engine.mixes.plan import plan_mix, plan_version_of
from engine.pool.pool import WorkerPool
from engine.service.admission import Ticket
from engine.service.errors import KeyReused
from engine.service.intake import Intake
from engine.service.resubmission import Resubmission
from engine.service.result_files import ResultFile, ResultFiles, key_of
from engine.service.snapshot import ModelChoice, ServiceSnapshot, WorkerSnapshot, model_choices, take_snapshot
from engine.service.submission import Attachment, Link, Submission, Upload, upload_of
from engine.service.views import JobPresenter
from engine.service.watch import Watchers, has_changed
from engine.sources.youtube.link import video_ids_in
from engine.storage.storage import Storage
from engine.voice.player import VoicePlayer
from engine.voice.stream import VoiceStream

__all__ = [
    "Attachment",
    "Link",
    "MixRequest",
    "ModelChoice",
    "ResultFile",
    "ServiceSnapshot",
    "StemService",
    "Submission",
    "Ticket",
    "Upload",
    "VersionRequest",
    "VoiceStream",
    "WorkerSnapshot",
    "upload_of",
    "video_ids_in",
]

log = logging.getLogger(__name__)


class StemService:
    def __init__(
        self,
        store: JobStore,
        storage: Storage,
        pool: WorkerPool,
        dispatcher: Dispatcher,
        intake: Intake,
        resubmission: Resubmission,
        presenter: JobPresenter,
        progress: ProgressTracker,
        mixer: Mixer,
    ) -> None:
        self._store = store
        self._storage = storage
        self._pool = pool
        self._dispatcher = dispatcher
        self._intake = intake
        self._resubmission = resubmission
        self._presenter = presenter
        self._progress = progress
        self._mixer = mixer
        self._watchers = Watchers(progress)
        self._result_files, self._voice = ResultFiles(store, storage), VoicePlayer(storage, mixer)

    def admit_upload(self, owner: str, size_bytes: int | None = None) -> AbstractAsyncContextManager[Ticket]:
        """Admit an upload of `owner` before its first byte is read; `size_bytes`: as declared.

        Pass the ticket to `submit` inside the context. Raises `RetryLater`, `Blocked`, `TooMuchStored`.
        """
        return self._intake.upload(owner, size_bytes=size_bytes)

    async def submit(self, submission: Submission, ticket: Ticket | None = None) -> JobView:
        """Accept a job; once this returns, it survives any crash.

        Raises `InputRefused`, `RetryLater` or `ModelUnavailable`. A refused request leaves nothing behind and does
        not count toward the quota; files that were expensive to check are counted separately.
        """
        try:
            job = await self._intake.accept(submission, ticket)
        except RequestSeen as seen:  # sent twice at the same time
            if seen.is_other:
                raise KeyReused from None
            return await self.get(seen.job_id)
        return await self._view_of_new_job(job)

    async def has_request(self, owner: str, key: str) -> bool:
        """Return whether the owner has created a job with this key in the last day."""
        return await self._intake.has_request(owner, key)

    async def submitted(self, submission: Submission) -> JobView | None:
        """Return the job that an earlier request with the same key created, after reading the file of this one.

        None: the key is new. Raises `KeyReused` if this request differs.
        """
        job_id = await self._intake.submitted(submission)
        return None if job_id is None else await self.get(job_id)

    async def allowance(self, owner: str) -> Allowance | None:
        """Return how many jobs the owner may still start; None: there is no limit."""
        return await self._intake.allowance(owner)

    async def estimated_s(self, options: StemSeparationOptions, duration_s: float) -> int:
        """Return the expected seconds of a job, from the learned speeds."""
        return await self._intake.estimated_s(options, duration_s)

    async def retry(self, job_id: str, *, by: str, new_id: str | None = None, model: str | None = None) -> JobView:
        """Submit a failed job again, optionally with another `model`. Three retries a day of one song are free.

        Raises `NotFound`, `NotAllowed`, `InvalidState`, `QueueFull`, `QuotaExceeded`, `UnknownModel`,
        `ModelUnavailable`.
        """
        changes = {} if model is None else {"model": model}
        job = await self._resubmission.retry(await self._owned(job_id, by), new_id, changes)
        return await self._view_of_new_job(job)

    async def again(self, job_id: str, changes: Mapping[str, object], *, by: str, new_id: str | None = None) -> JobView:
        """Separate the kept song of a completed job again, with `changes` of its options; retry a failed one.

        Raises `NotFound`, `NotAllowed`, `InvalidState`, `SongGone`, `RetryLater`, `BadOptions`, `ModelUnavailable`.
        """
        job = await self._resubmission.again(await self._owned(job_id, by), new_id, changes)
        return await self._view_of_new_job(job)

    async def has_song(self, job: Job) -> bool:
        """Whether the song of a job is still kept, so that it can be separated again."""
        return await self._resubmission.has_song(job)

    async def _view_of_new_job(self, job: Job) -> JobView:
        # The job is stored: never report failure from here on.
        log.info("job accepted", extra={"job": job.id, "model": job.model, "quality": job.options.quality})
        self._dispatcher.wake()
        try:
            return await self._presenter.present(job)
        except StemifyError:
            return JobView(job=job)

    async def get(self, job_id: str) -> JobView:
        """Return a job, archived or not. Raises `NotFound`."""
        return await self._presenter.present(await self._job(job_id))

    async def list(
        self, owner: str, *, limit: int = 25, offset: int = 0, active_only: bool = False
    ) -> Sequence[JobView]:
        """Return the owner's jobs without the newest `offset` ones, newest first."""
        jobs = await self._store.list_by_owner(owner, limit=limit, offset=offset, active_only=active_only)
        return [await self._presenter.present(job) for job in jobs]

    async def find(self, owner: str, text: str, *, limit: int = 25) -> Sequence[JobView]:
        """Return the owner's jobs with `text` in title or artist, newest first, archived ones included."""
        return [await self._presenter.present(job) for job in await find_jobs(self._store, owner, text, limit=limit)]

    async def watch(self, job_id: str) -> AsyncGenerator[JobView, None]:
        """Yield the current state, then every change, until the job has ended.

        Progress is sampled once a second; a slow reader misses intermediate states. Raises `NotFound`.
        """
        with self._watchers.watching(job_id) as watcher:
            job, shown = await self._job(job_id), None
            while True:
                view = await self._presenter.present(job)
                if shown is None or has_changed(shown, view):
                    shown = view
                    yield view
                if view.job.is_over:
                    return
                if await watcher.wait():
                    watcher.mark_loaded()
                    job = await self._job(job_id)

    async def cancel(self, job_id: str, *, by: str) -> JobView:
        """Cancel a job within two seconds, unless it has ended. Raises `NotFound`, `NotAllowed`."""
        job = await self._owned(job_id, by)
        await self._dispatcher.cancel(job.id)
        return await self.get(job.id)

    async def delete(self, job_id: str, *, by: str) -> None:
        """Delete a job and its files, cancelling it first. Raises `NotFound`, `NotAllowed`."""
        job = await self._owned(job_id, by)
        await self._dispatcher.cancel(job.id)
        await self._store.delete(job.id)  # also records that the files must be deleted, in case of a crash
        await self._storage.delete_job(job.id)
        await self._store.forget_deletion(job.id)
        log.info("job deleted", extra={"job": job.id})
        self._watchers.notify(job.id)

    async def delete_all(self, owner: str) -> int:
        """Delete all data of an owner, including archived and kept jobs; return the number of jobs.

        If a job cannot be deleted, the others still are; the last error is raised at the end.
        """
        problem: StemifyError | None = None
        job_ids = await self._store.ids_by_owner(owner)
        for job_id in job_ids:
            try:
                await self.delete(job_id, by=owner)
            except NotFound:  # deleted in the meantime
                continue
            except StemifyError as error:
                log.error("could not delete job", extra={"job": job_id, "reason": error.detail or error.message})
                problem = error
        await self._store.forget_owner(owner)
        if problem is not None:
            raise problem
        return len(job_ids)

    async def keep(self, job_id: str, *, by: str) -> JobView:
        """Keep the stems until they are deleted. Raises `NotFound`, `NotAllowed`, `InvalidState`."""
        job = await self._owned(job_id, by)
        if job.status is not JobStatus.COMPLETED:
            raise InvalidState("Only the stems of a completed job can be kept.")
        await self._store.keep(job.id, True)
        self._watchers.notify(job.id)
        return await self.get(job.id)

    @asynccontextmanager
    async def open_file(self, job: Job, name: str) -> AsyncIterator[Path]:
        """Yield the path of a file of a result: "vocals", …, "stem", "waveform", "peaks", "beats", "chords".

        Raises `NotFound`.
        """
        async with self._storage.open_file(key_of(job, name)) as path:
            yield path

    async def files_within(self, job: Job, limit_bytes: int) -> Sequence[ResultFile]:
        """Return a file of at most `limit_bytes` for each stem that can have one, as smaller mp3 if necessary."""
        return await self._result_files.within(job, limit_bytes)

    def open_result_file(self, file: ResultFile) -> AbstractAsyncContextManager[Path]:
        """Return a context in which the file is at a local path. Raises `NotFound`."""
        return self._result_files.open(file)

    async def mix(self, job_id: str, request: MixRequest, *, by: str) -> Mix:
        """Make one file of the stems of a completed job, or return it if it exists; `by` is the owner that asks.

        Raises `NotFound`, `BadMix` and what `Mixer.make` raises.
        """
        job, mix, _ = await self._mix(job_id, request, by)
        return self._presenter.present_mix(job, mix)

    async def mix_within(self, job_id: str, request: MixRequest, limit_bytes: int, *, by: str) -> ResultFile | None:
        """Make a mix as `mix` does; return a file of it of at most `limit_bytes`, or None if it is too long."""
        return await self._result_files.mix_within(*await self._mix(job_id, request, by), limit_bytes)

    async def _mix(self, job_id: str, request: MixRequest, by: str) -> tuple[Job, StoredMix, float]:
        """Return the job, the mix and its length in seconds."""
        job = await self._job(job_id)
        stems = dict(completed_result(job).stems)
        song_s = max(info.duration for info in stems.values())
        plan = plan_mix(request, list(stems), song_s)
        return job, await self._mixer.make(job, plan, by=by), plan.duration_s(song_s)

    async def version(self, job_id: str, request: VersionRequest, *, by: str) -> Version:
        """Make all stems of a completed job in another key and at another tempo; as `mix`."""
        job = await self._job(job_id)
        plan = plan_version_of(completed_result(job).stems, request)
        return self._presenter.present_version(job, plan, await self._mixer.make(job, plan, by=by))

    async def play(self, job_id: str, version: VersionRequest, *, start_s: float = 0.0, by: str) -> VoiceStream:
        """Play a completed job for a voice channel; as `mix`. The caller closes the stream."""
        return await self._voice.start(await self._job(job_id), version, start_s=start_s, by=by)

    async def version_progress(self, job_id: str, request: VersionRequest) -> float | None:
        """Return the finished share of a version that is being made; None if it is not. Raises `NotFound`, `BadMix`."""
        job = await self._job(job_id)
        return self._mixer.progress(job.id, plan_version_of(completed_result(job).stems, request))

    def models(self) -> Sequence[ModelChoice]:
        """Return all models, usable ones first."""
        return model_choices(self._pool)

    async def measured_costs(self) -> dict[str, float]:
        """Return the seconds per second of audio of each model that was measured here at quality `balanced`."""
        device = self._pool.device
        speeds = {name: await self._store.speeds.get(name, Quality.BALANCED, device) for name in MODELS}
        return {name: round(speed, 3) for name, speed in speeds.items() if speed is not None}

    async def snapshot(self) -> ServiceSnapshot:
        """Return the health of the backend. Raises `StemifyError` if the database does not respond."""
        return await take_snapshot(self._store, self._pool, self._progress)

    async def _job(self, job_id: str) -> Job:
        job = await self._store.get(job_id)
        if job is None:
            raise NotFound
        return job

    async def _owned(self, job_id: str, by: str) -> Job:
        job = await self._job(job_id)
        if job.owner != by:
            raise NotAllowed
        return job
