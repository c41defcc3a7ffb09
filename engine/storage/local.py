"""Storage on the local disk: files appear by rename, complete and synced."""

from __future__ import annotations

import asyncio
import shutil
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from engine.errors import NotFound
from engine.storage import disk
from engine.storage.layout import ATTEMPT
from engine.storage.scratch import BLOCK_BYTES, Scratch
from engine.storage.storage import OnProgress, StoredFile, gone, no_progress

P = ParamSpec("P")
T = TypeVar("T")


class LocalStorage(Scratch):
    """The `Storage` of a bot on one machine."""

    async def prepare(self) -> None:
        pass

    def fetch(self, key: str, folder: Path, on_progress: OnProgress = no_progress) -> Path:
        path = self.local_path(key)
        if not path.is_file():
            raise gone(key)
        return path

    def publish_folder(self, folder: Path, key: str, on_progress: OnProgress = no_progress) -> None:
        """Rename the folder, replacing what a killed run of the same attempt left there."""
        target = self.local_path(key)
        with disk.translate_errors(key):
            target.parent.mkdir(parents=True, exist_ok=True)
            for file in folder.iterdir():
                with file.open("rb") as handle:
                    disk.sync(handle.fileno())
            if target.exists():
                shutil.rmtree(target)
            folder.rename(target)

    async def upload(self, key: str) -> None:
        pass  # workers read the received file

    async def publish(self, local_file: Path, key: str) -> None:
        path = self.local_path(key)
        with disk.translate_errors(key):
            await asyncio.to_thread(disk.move, local_file, path)

    async def copy(self, source: str, key: str) -> bool:
        path = self.local_path(key)
        with disk.translate_errors(key):
            try:
                await asyncio.to_thread(disk.link_or_copy, self.local_path(source), path)
            except FileNotFoundError:
                return False
        return True

    async def size(self, key: str) -> int | None:
        try:
            return (await self.open(key)).size
        except NotFound:
            return None

    async def open(self, key: str) -> StoredFile:
        path = self.local_path(key)
        try:
            found = await asyncio.to_thread(path.stat)
        except OSError:
            raise gone(key) from None
        if not stat.S_ISREG(found.st_mode):
            raise gone(key)
        etag = f'"{found.st_mtime_ns:x}-{found.st_size:x}"'  # the one that aiohttp gives
        modified = datetime.fromtimestamp(found.st_mtime, UTC)
        return StoredFile(found.st_size, etag, modified, path, partial(_read, path, key), self.in_thread)

    async def redirect(self, key: str) -> str | None:
        return None

    @asynccontextmanager
    async def open_file(self, key: str) -> AsyncIterator[Path]:
        path = self.local_path(key)
        if not path.is_file():
            raise gone(key)
        yield path

    async def in_thread(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.to_thread(call, *args, **kwargs)

    async def delete_tree(self, prefix: str) -> None:
        await asyncio.to_thread(self.delete_local, prefix)

    async def delete_job(self, job_id: str) -> None:
        await asyncio.to_thread(self.clear_scratch, job_id)
        await self.delete_tree(f"jobs/{job_id}")

    async def tidy_job(self, job_id: str, *, keep_attempt: int | None, keep_input: bool) -> None:
        await asyncio.to_thread(self.tidy_local, job_id, keep_attempt, keep_input)

    def jobs_on_disk(self) -> list[str]:
        return self.local_jobs()

    def has_result(self, job_id: str) -> bool:
        return any(ATTEMPT.fullmatch(name) for name in disk.real_folders(self.root / "jobs" / job_id))


def _read(path: Path, key: str, start: int, end: int) -> Iterator[bytes]:
    try:
        with disk.translate_errors(key), path.open("rb") as file:
            file.seek(start)
            while start < end and (block := file.read(min(BLOCK_BYTES, end - start))):
                start += len(block)
                yield block
    except FileNotFoundError:
        raise gone(key) from None
