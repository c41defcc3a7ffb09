"""Storage in S3, GCS or Azure.

The data folder of this machine holds only temporary files: an upload until it is checked, scratch, and downloaded
copies while they are read. An object store cannot publish a folder at once, so a result counts only when its job's row
says `completed`. The objects of an attempt are created, never overwritten.
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
from engine.storage.bucket import Bucket, ObjectInfo, Step
from engine.storage.disk import translate_errors
from engine.storage.layout import ATTEMPT, INPUT, JOB, check_tree
from engine.storage.local import LocalStorage
from engine.storage.scratch import Scratch
from engine.storage.storage import OnProgress, Storage, StoredFile, gone, no_progress
from engine.text import content_disposition, content_type

log = logging.getLogger(__name__)

_REQUESTS_AT_ONCE = 64

P = ParamSpec("P")
T = TypeVar("T")


class ObjectStorage(Scratch):
    """The `Storage` in a bucket. `redirect`: clients may download from the store itself."""

    def __init__(self, root: Path, bucket: Bucket, *, redirect: bool) -> None:
        super().__init__(root)
        self._bucket = bucket
        self._redirect = redirect
        self._threads = ThreadPoolExecutor(_REQUESTS_AT_ONCE, thread_name_prefix="bucket")

    async def in_thread(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a call in the threads of the bucket: a stalled store must not block the disk."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(call, *args, **kwargs))

    async def prepare(self) -> None:
        await asyncio.to_thread(shutil.rmtree, self.root / "fetched", ignore_errors=True)
        try:
            await self.in_thread(self._bucket.check)
        except StorageUnavailable as error:
            log.error("object storage does not answer; jobs will fail until it does: %s", error.detail)
        if self._bucket.keeps_unfinished_uploads:
            log.info("S3 keeps unfinished uploads until a lifecycle rule removes them (docs/scale-out.md)")

    def fetch(self, key: str, folder: Path, on_progress: OnProgress = no_progress) -> Path:
        self.local_path(key)
        path = folder / key.rpartition("/")[2]
        with translate_errors(key):
            folder.mkdir(parents=True, exist_ok=True)
            try:
                self._bucket.download(key, path, lambda done, size: on_progress(done / max(1, size)))
            except FileNotFoundError:
                raise gone(key) from None
        return path

    def publish_folder(self, folder: Path, key: str, on_progress: OnProgress = no_progress) -> None:
        """Upload small files first: they can only be created once, so they reserve the attempt's folder."""
        check_tree(key)
        files = sorted(folder.iterdir(), key=lambda file: file.stat().st_size)
        total = max(1, sum(file.stat().st_size for file in files))
        before = 0

        def step(done: int, _of: int) -> None:
            on_progress((before + done) / total)

        for file in files:
            self._create(file, f"{key}/{file.name}", step)
            before += file.stat().st_size

    def _create(self, file: Path, key: str, step: Step | None = None) -> None:
        name = key.rpartition("/")[2]
        headers = {"Content-Type": content_type(name), "Content-Disposition": content_disposition("inline", name)}
        try:
            self._bucket.upload(file, key, headers, step)
        except FileExistsError:
            raise StorageFailed(detail=f"{key} already exists") from None

    async def upload(self, key: str) -> None:
        path = self.local_path(key)
        await self._find(key)  # detects a stalled store sooner than an upload would
        await self.in_thread(self._create, path, key)
        await asyncio.to_thread(path.unlink, missing_ok=True)

    async def publish(self, local_file: Path, key: str) -> None:
        self.local_path(key)
        if not await asyncio.to_thread(local_file.is_file):
            raise StorageFailed(detail=f"{local_file} does not exist")
        if INPUT.fullmatch(key.rpartition("/")[2]):  # an earlier attempt may have published it
            await self.in_thread(self._bucket.delete, [key])
        await self.in_thread(self._create, local_file, key)
        await asyncio.to_thread(local_file.unlink)

    async def copy(self, source: str, key: str) -> bool:
        self.local_path(key)
        return await self.in_thread(self._bucket.copy, source, key)

    async def _find(self, key: str) -> ObjectInfo | None:
        try:
            self.local_path(key)
        except NotFound:
            return None
        return await self.in_thread(self._bucket.find, key)

    async def size(self, key: str) -> int | None:
        found = await self._find(key)
        return None if found is None else found.size

    async def open(self, key: str) -> StoredFile:
        found = await self._find(key)
        if found is None:
            raise gone(key)
        etag = found.etag or f'"{found.size:x}"'
        return StoredFile(found.size, etag, found.modified, None, partial(self._read, key), self.in_thread)

    def _read(self, key: str, start: int, end: int) -> Iterator[bytes]:
        try:
            yield from self._bucket.blocks(key, start, end)
        except FileNotFoundError:
            raise gone(key) from None

    async def redirect(self, key: str) -> str | None:
        return await self.in_thread(self._bucket.presigned, key) if self._redirect else None

    @asynccontextmanager
    async def open_file(self, key: str) -> AsyncIterator[Path]:
        folder = self.root / "fetched"
        await asyncio.to_thread(folder.mkdir, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as copies:
            yield await self.in_thread(self.fetch, key, Path(copies))

    # Deletion: the files on this machine first, then those in the bucket.

    async def delete_tree(self, prefix: str) -> None:
        await asyncio.to_thread(self.delete_local, prefix)
        if prefix.startswith("jobs/"):
            await self.in_thread(self._delete_below, prefix)

    def _delete_below(self, prefix: str) -> None:
        self._bucket.delete(self._bucket.keys(prefix))

    async def delete_job(self, job_id: str) -> None:
        await asyncio.to_thread(self.clear_scratch, job_id)
        await self.delete_tree(f"jobs/{job_id}")

    async def tidy_job(self, job_id: str, *, keep_attempt: int | None, keep_input: bool) -> None:
        await asyncio.to_thread(self.tidy_local, job_id, keep_attempt, keep_input)
        if JOB.fullmatch(job_id):
            await self.in_thread(self._tidy_bucket, f"jobs/{job_id}", keep_attempt, keep_input)

    def _tidy_bucket(self, prefix: str, keep_attempt: int | None, keep_input: bool) -> None:
        unwanted = []
        for key in self._bucket.keys(prefix):
            name, slash, _ = key.removeprefix(f"{prefix}/").partition("/")
            attempt = ATTEMPT.fullmatch(name) if slash else None
            is_input = not slash and INPUT.fullmatch(name) is not None
            if (attempt and int(attempt[1]) != keep_attempt) or (is_input and not keep_input):
                unwanted.append(key)
        self._bucket.delete(unwanted)

    def jobs_on_disk(self) -> list[str]:
        in_bucket = {name for name in self._bucket.folders("jobs") if JOB.fullmatch(name)}
        return sorted(in_bucket | set(self.local_jobs()))

    def has_result(self, job_id: str) -> bool:
        return any(ATTEMPT.fullmatch(name) for name in self._bucket.folders(f"jobs/{job_id}"))


def open_storage(root: Path, settings: StorageSettings, *, patience_s: float) -> Storage:
    """Return the storage that the settings name.

    `patience_s`: how long requests to object storage are retried. Raises `ConfigurationError`.
    """
    if settings.url is None:
        return LocalStorage(root)
    return ObjectStorage(root, Bucket(settings, patience_s=patience_s), redirect=settings.redirect)
