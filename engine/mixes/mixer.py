"""Makes mixes and versions of completed jobs, each once, within limits of each owner and of the machine."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import tempfile
import threading
from collections import Counter
from functools import partial
from typing import BinaryIO

from config.settings import Mixes
from engine.database.blocklist import BlockList
from engine.database.job_store import JobStore
from engine.database.quota import Quota
from engine.database.usage import Usage, counted
from engine.errors import InvalidState, NotFound, RetryLater, StemifyError
from engine.jobs.job import Job
from engine.jobs.results import JobResult
from engine.mixes.cache import MixCache, StoredMix
from engine.mixes.errors import TooManyMixes
from engine.mixes.plan import MixPlan
from engine.mixes.process import Song, render_files
from engine.process.cpus import usable_cpus
from engine.storage.disk import work_folder
from engine.storage.disk_space import DiskSpace
from engine.storage.layout import MIXING
from engine.storage.storage import Storage

log = logging.getLogger(__name__)

_TYPICAL_S = 5.0  # of one mix


class Mixer:
    def __init__(
        self,
        store: JobStore,
        storage: Storage,
        quota: Quota,
        usage: Usage,
        disk_space: DiskSpace,
        blocked: BlockList,
        settings: Mixes,
    ) -> None:
        self._store = store
        self._storage = storage
        self._quota = quota
        self._usage = usage
        self._disk_space = disk_space
        self._blocked = blocked
        self._settings = settings
        self._cache = MixCache(storage)
        self._work = storage.root / MIXING
        self._processes = settings.processes or max(1, usable_cpus() // 4)
        self._turn = asyncio.Semaphore(self._processes)
        self._active: Counter[str] = Counter()  # waiting and running mixes by owner
        self._running: dict[str, asyncio.Task[StoredMix]] = {}
        self._spools: dict[str, tuple[BinaryIO, int]] = {}  # being filled, with the final size in bytes
        self._closing = threading.Event()

    async def prepare(self) -> None:
        """Delete what a killed process left unfinished. Call it once, before the first mix."""
        await asyncio.to_thread(shutil.rmtree, self._work, ignore_errors=True)

    async def close(self) -> None:
        """Stop all child processes."""
        self._closing.set()
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def make(self, job: Job, plan: MixPlan, *, by: str) -> StoredMix:
        """Return the mix, from the cache or after making it. Equal requests share one child process.

        `by` is the owner that asks. Raises `InvalidState`, `NotFound`, `Blocked`, `TooManyMixes`, `MixesExceeded`,
        `TooMuchStored`, `DiskSpaceLow`, `MixFailed`, and errors of the storage.
        """
        result = await self.result_for(job, by=by)
        folder = self._cache.folder(job.id, plan)
        while (task := self._running.get(folder)) is not None:
            # A limit of the owner who asked first does not count for this one.
            with contextlib.suppress(RetryLater):
                return await asyncio.shield(task)
        task = asyncio.create_task(self._find_or_make(job, result, plan, folder, by))
        self._running[folder] = task
        task.add_done_callback(partial(self._forget, folder))
        return await asyncio.shield(task)

    async def result_for(self, job: Job, *, by: str) -> JobResult:
        """Return the result of a completed job to the owner that asks. Raises `InvalidState`, `Blocked`."""
        await self._blocked.check(by, job.scope)
        return completed_result(job)

    def progress(self, job_id: str, plan: MixPlan) -> float | None:
        """Return the finished share of a mix that is being made; None if it is not being made."""
        folder = self._cache.folder(job_id, plan)
        if folder not in self._running:
            return None
        if folder not in self._spools:
            return 0.0
        spool, final_bytes = self._spools[folder]
        return min(1.0, os.fstat(spool.fileno()).st_size / final_bytes)

    def _forget(self, folder: str, task: asyncio.Task[StoredMix]) -> None:
        del self._running[folder]
        if not task.cancelled() and isinstance(error := task.exception(), StemifyError) and error.detail:
            log.warning("could not make a mix", extra={"code": error.code, "reason": error.detail})

    async def _find_or_make(self, job: Job, result: JobResult, plan: MixPlan, folder: str, by: str) -> StoredMix:
        if (found := await self._cache.find(folder)) is not None:
            return found
        self._check_limits(by)
        self._active[by] += 1
        try:
            await (self._usage.check if by == job.owner else self._usage.check_for_others)(job.owner)
            await asyncio.to_thread(self._disk_space.check, self._needed_bytes(result, plan))
            await self._quota.spend_mix(by)
            async with self._turn:
                stored = await self._make(job, result, plan, folder)
        finally:
            self._active[by] -= 1
            self._active += Counter()  # forget owners without a mix
        if await self._store.get(job.id) is None:  # deleted in the meantime
            await self._storage.delete_job(job.id)
            raise NotFound
        log.info("mix made", extra={"job": job.id, "bytes": stored.size})
        return stored

    def _check_limits(self, by: str) -> None:
        if self._active[by] >= self._settings.per_owner:
            raise TooManyMixes("Your last mixes are still being made. Try again soon.", retry_after_s=_TYPICAL_S)
        waiting = self._active.total() - self._processes
        if waiting >= self._settings.queue:
            raise TooManyMixes(retry_after_s=_TYPICAL_S * (1 + waiting / self._processes))

    @staticmethod
    def _needed_bytes(result: JobResult, plan: MixPlan) -> int:
        """Return the size of the float samples and of the largest possible files."""
        return round(_samples_bytes(result, plan) * 7 / 4)

    async def _make(self, job: Job, result: JobResult, plan: MixPlan, folder: str) -> StoredMix:
        with work_folder(self._work) as work:
            out, stems = work / "out", work / "stems"
            out.mkdir()
            paths = {}
            for name, info in result.stems:
                paths[name] = await self._storage.in_thread(self._storage.fetch, info.path, stems / name)
            song = Song(
                title=job.title,
                model=result.model_used,
                duration_s=max(info.duration for _, info in result.stems),
                gain_db=result.trust.gain_db if result.trust is not None else 0.0,
                stems=paths,
            )
            render = partial(
                render_files,
                song,
                plan,
                out,
                cpu_s=self._settings.cpu_s,
                niceness=self._settings.niceness,
                cancelled=self._closing,
            )
            with tempfile.TemporaryFile(dir=work, buffering=0) as spool:
                self._spools[folder] = spool, max(1, _samples_bytes(result, plan))
                rendering = asyncio.ensure_future(asyncio.to_thread(render, spool=spool))
                try:
                    rendered = await asyncio.shield(rendering)
                except asyncio.CancelledError:  # at shutdown: the child ends first, then its files are deleted
                    await asyncio.gather(rendering, return_exceptions=True)
                    raise
                finally:
                    del self._spools[folder]
            stored = self._cache.describe(folder, rendered, out)
            async with counted(self._store.database, job.id, stored.size):
                await self._cache.publish(folder, stored, out)
            return stored


def _samples_bytes(result: JobResult, plan: MixPlan) -> int:
    """Return the size of the float samples of all files."""
    song_s = max(info.duration for _, info in result.stems)
    rate = max(info.sample_rate for _, info in result.stems)
    channels = 2 * (len(plan.gains) if plan.keeps_stems else 1)
    return round(plan.duration_s(song_s) * rate * channels * 4)


def completed_result(job: Job) -> JobResult:
    """Return the result of a completed job that has stems of a whole song. Raises `InvalidState`."""
    if job.result is None:
        raise InvalidState("This job has no stems yet. Check its status first.")
    if job.result.comparison is not None:
        raise InvalidState("This job compares models. Separate the whole song with one of them first.")
    return job.result
