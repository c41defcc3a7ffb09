"""Files of a result for places with a size limit: the stems, or copies of them as mp3 at the highest rate that fits.

Copies are made when they are first needed, stored beside the stems, and deleted with them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from engine.database.job_store import JobStore
from engine.database.usage import counted
from engine.errors import NotFound, StemifyError
from engine.jobs.job import Job
from engine.jobs.results import StemInfo
from engine.media.reencode import Copy, bit_rate_within, reencode
from engine.mixes.cache import StoredMix
from engine.storage import disk
from engine.storage.layout import MIXING
from engine.storage.storage import Storage

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ResultFile:
    """A stem or a mix, or a smaller copy of it with a lower `bit_rate` (bits per second)."""

    name: str  # of the stem or the mix
    filename: str
    size: int  # bytes
    path: str  # storage key
    bit_rate: int | None = None  # None: not a copy


def key_of(job: Job, name: str) -> str:
    """Return the storage key of a file of a result (`StemService.open_file`). Raises `NotFound`."""
    result = job.result
    if result is None:
        raise NotFound
    keys = {"waveform": result.waveform_path, **{stem: info.path for stem, info in result.stems}}
    keys |= {"stem": result.stem_file.path if result.stem_file else None, "peaks": result.peaks_path}
    if result.music is not None:
        keys |= {"beats": result.music.beats_path, "chords": result.music.chords_path}
    if (key := keys.get(name)) is None:
        raise NotFound("That file is no longer here.")
    return key


class ResultFiles:
    def __init__(self, store: JobStore, storage: Storage) -> None:
        self._store = store
        self._storage = storage
        self._encoding = asyncio.Semaphore(1)  # one child at a time

    async def within(self, job: Job, limit_bytes: int) -> list[ResultFile]:
        """Return a file of at most `limit_bytes` for each stem, in display order, and the stem file if it fits.

        Of a comparison it is one stem of each model (`JobResult.files_by_name`).

        A stem is left out if it is too long for the limit at any rate, no longer stored, or cannot be encoded again.
        """
        if job.result is None:
            return []
        stems = job.result.files_by_name
        copies = {
            name: copy
            for name, info in stems.items()
            if info.size > limit_bytes and (copy := _copy_of(job.result.output_dir, name, info, limit_bytes))
        }
        if copies:
            duration_s = max(info.duration for info in stems.values())
            await self._make(job, copies, {name: info.path for name, info in stems.items()}, duration_s)
        files: list[ResultFile] = []
        for name, info in stems.items():
            if info.size <= limit_bytes:
                files.append(ResultFile(name, info.filename, info.size, info.path))
            elif (copy := copies.get(name)) is not None:
                size = await self._storage.size(copy.path)
                if size is not None and size <= limit_bytes:
                    files.append(ResultFile(name, copy.filename, size, copy.path, copy.bit_rate))
        if (stem_file := job.result.stem_file) is not None and stem_file.size <= limit_bytes:
            files.append(ResultFile("stem", stem_file.filename, stem_file.size, stem_file.path))
        return files

    async def mix_within(self, job: Job, mix: StoredMix, duration_s: float, limit_bytes: int) -> ResultFile | None:
        """Return a file of the mix of at most `limit_bytes`; None if it is too long or cannot be encoded again."""
        (file,) = mix.files.values()
        if file.size <= limit_bytes:
            return ResultFile(mix.name, file.filename, file.size, file.key)
        bit_rate = bit_rate_within(duration_s, limit_bytes)
        if bit_rate is None:
            return None
        path = f"{file.key.rpartition('/')[0]}/{bit_rate // 1000}k.mp3"
        copy = ResultFile(mix.name, file.filename, 0, path, bit_rate)
        await self._make(job, {"mix": copy}, {"mix": file.key}, duration_s)
        size = await self._storage.size(path)
        return None if size is None or size > limit_bytes else replace(copy, size=size)

    @asynccontextmanager
    async def open(self, file: ResultFile) -> AsyncIterator[Path]:
        """Yield a local path of the file. Raises `NotFound`."""
        async with self._storage.open_file(file.path) as path:
            yield path

    async def _make(self, job: Job, copies: dict[str, ResultFile], sources: dict[str, str], duration_s: float) -> None:
        """Encode the copies of the files at these storage keys that are not stored yet. Failures are logged."""
        async with self._encoding:
            try:
                missing = {name: copy for name, copy in copies.items() if await self._storage.size(copy.path) is None}
                if missing:
                    await self._encode(job, missing, sources, duration_s)
            except StemifyError as error:
                log.error(
                    "could not make smaller stems", extra={"job": job.id, "reason": error.detail or error.message}
                )

    async def _encode(
        self, job: Job, copies: dict[str, ResultFile], sources: dict[str, str], duration_s: float
    ) -> None:
        async with AsyncExitStack() as opened:
            # Not the scratch of the job: that is deleted when its attempt has ended, which may be now.
            folder = opened.enter_context(disk.work_folder(self._storage.root / MIXING))
            work: dict[str, Copy] = {}
            for name, copy in copies.items():
                try:
                    source = await opened.enter_async_context(self._storage.open_file(sources[name]))
                except NotFound:
                    continue
                assert copy.bit_rate is not None
                work[name] = Copy(str(source), str(folder / f"{name}.mp3"), copy.bit_rate)
            await reencode(list(work.values()), duration_s=duration_s)
            size = sum(Path(done.target).stat().st_size for done in work.values())
            async with counted(self._store.database, job.id, size):
                for name, done in work.items():
                    await self._storage.publish(Path(done.target), copies[name].path)
        if await self._store.get(job.id) is None:  # deleted in the meantime
            await self._storage.delete_job(job.id)


def _copy_of(output_dir: str, name: str, info: StemInfo, limit_bytes: int) -> ResultFile | None:
    """Return the copy that fits, with an unknown size, or None if the stem is too long. It has no cover."""
    bit_rate = bit_rate_within(info.duration, limit_bytes)
    if bit_rate is None:
        return None
    path = f"{output_dir}/{name}-{bit_rate // 1000}k.mp3"
    return ResultFile(name, f"{info.filename.rpartition('.')[0]}.mp3", 0, path, bit_rate)
