"""The same files in object storage. The data folder of this machine keeps what is on its way: an upload until it is
examined, scratch, and copies for as long as somebody reads them.

An object storage knows no folders that appear at once, so a result counts from the moment at which its job's row says
`completed`; the files are whole and complete by then. An attempt's keys are created, never overwritten.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from config.settings import Storage as StorageSettings
from engine.errors import NotFound, StorageFailed, StorageUnavailable
from engine.storage.bucket import READ_BYTES, Bucket, ObjectInfo, Step
from engine.storage.disk import translate_errors
from engine.storage.local import ATTEMPT, INPUT, JOB, TREE, Storage, no_progress
from engine.text import content_disposition, content_type

log = logging.getLogger(__name__)

_REQUESTS_AT_ONCE = 64

P = ParamSpec("P")
T = TypeVar("T")


class ObjectStorage(Storage):
    """`root` is the data folder of this machine."""

    def __init__(self, root: Path, bucket: Bucket, *, redirect: bool) -> None:
        super().__init__(root)
        self._bucket = bucket
        self._redirect = redirect
        self._threads = ThreadPoolExecutor(_REQUESTS_AT_ONCE, thread_name_prefix="bucket")

    async def in_thread(self, call: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """What may wait for the store, in threads of its own: while it stands still, the disk is used as ever."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(call, *args, **options))

    async def prepare(self) -> None:
        await asyncio.to_thread(shutil.rmtree, self.root / "fetched", ignore_errors=True)
        try:
            await self.in_thread(self._bucket.check)
        except StorageUnavailable as error:
            log.error("object storage does not answer, jobs will fail until it does: %s", error.detail)
        if self._bucket.keeps_unfinished_uploads:
            log.info("S3 keeps unfinished uploads until a lifecycle rule removes them (docs/scale-out.md)")

    def fetch(self, key: str, folder: Path, on_progress: Callable[[float], None] = no_progress) -> Path:
        self.local_path(key)
        path = folder / key.rpartition("/")[2]
        with translate_errors(key):
            folder.mkdir(parents=True, exist_ok=True)
            try:
                self._bucket.download(key, path, lambda done, size: on_progress(done / max(1, size)))
            except FileNotFoundError:
                raise NotFound("That file is no longer here.", detail=key) from None
        return path

    def publish_folder(self, folder: Path, key: str, on_progress: Callable[[float], None] = no_progress) -> None:
        """Small files first: they can only be created where there are none, so that whoever creates them has the
        attempt's place to himself."""
        if not TREE.fullmatch(key):
            raise ValueError(f"not a place of a job: {key!r}")
        files = sorted(folder.iterdir(), key=lambda file: file.stat().st_size)
        total = max(1, sum(file.stat().st_size for file in files))
        before = 0

        def step(done: int, _of: int) -> None:
            on_progress((before + done) / total)

        for file in files:
            self._put(file, f"{key}/{file.name}", step)
            before += file.stat().st_size

    def _put(self, file: Path, key: str, step: Step | None = None) -> None:
        name = key.rpartition("/")[2]
        headers = {"Content-Type": content_type(name), "Content-Disposition": content_disposition("inline", name)}
        try:
            self._bucket.upload(file, key, headers, step)
        except FileExistsError:
            raise StorageFailed(detail=f"{key} is there already") from None

    async def upload(self, key: str) -> None:
        path = self.local_path(key)
        await self.find(key)  # a store that stands still is found out by a question, in less time than by a file
        await self.in_thread(self._put, path, key)
        await asyncio.to_thread(path.unlink, missing_ok=True)

    async def publish(self, local_file: Path, key: str) -> None:
        self.local_path(key)
        if not await asyncio.to_thread(local_file.is_file):
            raise StorageFailed(detail=f"{local_file} is not there")
        if INPUT.fullmatch(key.rpartition("/")[2]):  # an attempt before this one may have got as far
            await self.in_thread(self._bucket.delete, [key])
        await self.in_thread(self._put, local_file, key)
        await asyncio.to_thread(local_file.unlink)

    async def copy(self, source: str, key: str) -> bool:
        self.local_path(key)
        return await self.in_thread(self._bucket.copy, source, key)

    async def find(self, key: str) -> ObjectInfo | None:
        """None when there is no such file."""
        try:
            self.local_path(key)
        except NotFound:
            return None
        return await self.in_thread(self._bucket.find, key)

    async def size(self, key: str) -> int | None:
        found = await self.find(key)
        return None if found is None else found.size

    async def open_range(self, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        size = await self.size(key)
        if size is None:
            raise NotFound("That file is not here.", detail=key)
        end = size if end is None else min(end, size)
        for at in range(start, end, READ_BYTES):
            try:
                yield await self.in_thread(self._bucket.read, key, at, min(end, at + READ_BYTES))
            except FileNotFoundError:
                raise NotFound("That file is no longer here.", detail=key) from None

    def blocks(self, key: str, size: int) -> Iterator[bytes]:
        """A whole file of `size` bytes, for a thread. Raises `NotFound`."""
        try:
            yield from self._bucket.blocks(key, 0, size)
        except FileNotFoundError:
            raise NotFound("That file is no longer here.", detail=key) from None

    async def redirect(self, key: str) -> str | None:
        """A short-lived link to the file in the store itself, if people are to be sent there. Not to be logged."""
        return await self.in_thread(self._bucket.presigned, key) if self._redirect else None

    @asynccontextmanager
    async def open_file(self, key: str) -> AsyncIterator[Path]:
        folder = self.root / "fetched"
        await asyncio.to_thread(folder.mkdir, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as copies:
            yield await self.in_thread(self.fetch, key, Path(copies))

    # Removing: here what lies on this machine, then the same in the bucket.

    async def delete_tree(self, prefix: str) -> None:
        await super().delete_tree(prefix)
        if prefix.startswith("jobs/"):
            await self.in_thread(self._delete_below, prefix)

    def _delete_below(self, prefix: str) -> None:
        self._bucket.delete(self._bucket.keys(prefix))

    async def tidy_job(self, job_id: str, *, keep_attempt: int | None, keep_input: bool) -> None:
        await super().tidy_job(job_id, keep_attempt=keep_attempt, keep_input=keep_input)
        if JOB.fullmatch(job_id):
            await self.in_thread(self._tidy_bucket, f"jobs/{job_id}", keep_attempt, keep_input)

    def _tidy_bucket(self, prefix: str, keep_attempt: int | None, keep_input: bool) -> None:
        doomed = []
        for key in self._bucket.keys(prefix):
            name, slash, _ = key.removeprefix(f"{prefix}/").partition("/")
            attempt = ATTEMPT.fullmatch(name) if slash else None
            if (attempt and int(attempt[1]) != keep_attempt) or (
                not slash and not keep_input and INPUT.fullmatch(name)
            ):
                doomed.append(key)
        self._bucket.delete(doomed)

    def jobs_on_disk(self) -> list[str]:
        stored = {name for name in self._bucket.folders("jobs") if JOB.fullmatch(name)}
        return sorted(stored | set(super().jobs_on_disk()))

    def has_result(self, job_id: str) -> bool:
        return any(ATTEMPT.fullmatch(name) for name in self._bucket.folders(f"jobs/{job_id}"))


def open_storage(root: Path, settings: StorageSettings, *, patience_s: float) -> Storage:
    """Where files lie, by the settings. `patience_s`: how long object storage is asked again when it does not answer.
    Raises `ConfigurationError` when the settings are not right."""
    if settings.url is None:
        return Storage(root)
    return ObjectStorage(root, Bucket(settings, patience_s=patience_s), redirect=settings.redirect)
