"""Files, by storage key: a path relative to the data folder, with "/" ("jobs/<id>/a1/Song - vocals.mp3").

    jobs/<job id>/input              what the user sent
    jobs/<job id>/a<attempt>/…       the result of an attempt
    scratch/<job id>-a<attempt>/…    an attempt's own, gone when it ends

`Storage` keeps them on the local disk: files appear by rename, whole and synced. `engine.storage.object_store` keeps
them in object storage, behind the same calls. Whatever is deleted has one of the shapes above, checked against `TREE`;
nothing else in the data folder (models!) is removed from here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import obstore
from obstore.store import LocalStore

from engine.errors import NotFound, TooLarge
from engine.storage import disk

UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
JOB = re.compile(UUID)
_SCRATCH = re.compile(rf"({UUID})-a[1-9][0-9]{{0,3}}")
ATTEMPT = re.compile(r"a([1-9][0-9]{0,3})")
TREE = re.compile(rf"jobs/{UUID}(?:/a[1-9][0-9]{{0,3}})?|scratch/{UUID}-a[1-9][0-9]{{0,3}}")
INPUT = re.compile(r"input(?:\.[A-Za-z0-9]{1,10})?|\.input.*\.part")
BLOCK_BYTES = 2**20


def unlimited(_count_bytes: int) -> None:
    """Accept every block."""


def no_progress(_fraction: float) -> None:
    """Nobody wants to hear how far it is."""


class Storage:
    """`root` is the data folder; it is made when it is not there."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.root = root.resolve()
        self._store = LocalStore(prefix=self.root)

    async def prepare(self) -> None:
        """Once, at the start of the main process. Raises `StorageFailed` with a sentence when the place of the files
        cannot be used."""

    # What a worker asks for, in the thread of its attempt.

    def fetch(self, key: str, folder: Path, on_progress: Callable[[float], None] = no_progress) -> Path:
        """The file at `key` as a local path, to be read only; where it must be fetched, it is put into `folder`.
        `on_progress` hears the fraction done, and what it raises ends the fetching. Raises `NotFound`,
        `StorageFailed`."""
        path = self.local_path(key)
        if not path.is_file():
            raise NotFound("That file is no longer here.", detail=key)
        return path

    def publish_folder(self, folder: Path, key: str, on_progress: Callable[[float], None] = no_progress) -> None:
        """The finished files in `folder` become "jobs/<id>/a<attempt>", all at once: a rename on one disk cannot be
        seen half done. What an earlier life of this very attempt left there goes. Raises `DiskFull`, `StorageFailed`,
        and what `on_progress` raises."""
        target = self.local_path(key)
        with disk.translate_errors(key):
            target.parent.mkdir(parents=True, exist_ok=True)
            for file in folder.iterdir():
                with file.open("rb") as handle:
                    disk.sync(handle.fileno())
            if target.exists():
                shutil.rmtree(target)
            folder.rename(target)

    # What the main process asks for.

    def local_path(self, key: str) -> Path:
        """Where a key lies on this disk, whether or not something is there. Raises `NotFound` for a key that leaves
        the root, runs through a symbolic link, or could never be one of ours."""
        parts = key.split("/")
        if "\0" in key or any(part in ("", ".", "..") for part in parts):
            raise NotFound("That file is not here.", detail=f"refused key {key!r}")
        path = self.root.joinpath(*parts)
        try:
            straight = max(len(os.fsencode(part)) for part in parts) <= 255 and path.resolve() == path
        except (OSError, ValueError, RuntimeError):  # a name no file can have, a loop of links
            straight = False
        if not straight:
            raise NotFound("That file is not here.", detail=f"refused key {key!r}")
        return path

    async def receive(
        self,
        stream: AsyncIterator[bytes],
        key: str,
        max_bytes: int,
        before_write: Callable[[int], None] = unlimited,
    ) -> int:
        """Write a stream to `key`; its size in bytes. The file appears whole, synced to disk; on any failure or
        cancellation nothing is left. `before_write` is called in a thread with the size of each block.

        Raises `TooLarge` as soon as `max_bytes` are exceeded, `DiskFull`, `StorageFailed`, and what the stream and
        `before_write` raise."""
        path = self.local_path(key)
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        size = 0
        with disk.translate_errors(key):
            made = await asyncio.to_thread(disk.make_folder, path.parent)
            try:
                with part.open("xb") as file:

                    def write(block: bytearray) -> None:
                        before_write(len(block))
                        file.write(block)
                        file.flush()

                    waiting = bytearray()
                    async for block in stream:
                        size += len(block)
                        if size > max_bytes:
                            raise TooLarge.over(max_bytes)
                        waiting += block
                        if len(waiting) >= BLOCK_BYTES:
                            await asyncio.to_thread(write, waiting)
                            waiting = bytearray()
                    await asyncio.to_thread(write, waiting)
                    await asyncio.to_thread(disk.sync, file.fileno())
                part.replace(path)
                await asyncio.to_thread(disk.sync_folder, path.parent)
            except BaseException:
                part.unlink(missing_ok=True)
                for folder in made:
                    with contextlib.suppress(OSError):  # somebody else has put something there
                        folder.rmdir()
                raise
        return size

    async def upload(self, key: str) -> None:
        """Bring a received file to where all workers can read it. On one disk it is there already. Raises
        `StorageFailed`."""

    async def publish(self, local_file: Path, key: str) -> None:
        """Move a finished file to `key`, by rename on the same disk. Raises `DiskFull`, `StorageFailed`."""
        path = self.local_path(key)
        with disk.translate_errors(key):
            await asyncio.to_thread(disk.move, local_file, path)

    async def copy(self, source: str, key: str) -> bool:
        """Give a file a second key (a hard link where the disk can). False when there is no such file."""
        path = self.local_path(key)
        with disk.translate_errors(key):
            try:
                await asyncio.to_thread(disk.link_or_copy, self.local_path(source), path)
            except FileNotFoundError:
                return False
        return True

    async def size(self, key: str) -> int | None:
        """In bytes; None when there is no such file."""
        try:
            self.local_path(key)
            return int((await obstore.head_async(self._store, key))["size"])
        except (NotFound, FileNotFoundError):
            return None

    async def open_range(self, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """The bytes from `start` to before `end` (None: all the rest), in blocks. Raises `NotFound` at the first."""
        self.local_path(key)
        size = await self.size(key)
        if size is None:
            raise NotFound("That file is not here.", detail=key)
        end = size if end is None else min(end, size)
        if start >= end:
            return
        with disk.translate_errors(key):
            found = await obstore.get_async(self._store, key, options={"range": (start, end)})
            async for block in found.stream(min_chunk_size=BLOCK_BYTES):
                yield bytes(block)

    @asynccontextmanager
    async def open_file(self, key: str) -> AsyncIterator[Path]:
        """The file at `key` as a local path, for as long as the context lasts. Raises `NotFound`."""
        path = self.local_path(key)
        if not path.is_file():
            raise NotFound("That file is no longer here.", detail=key)
        yield path

    async def delete_tree(self, prefix: str) -> None:
        """Remove "jobs/<id>", "jobs/<id>/a<attempt>" or "scratch/<id>-a<attempt>" with all that is in it. Raises
        `ValueError` for anything else. A symbolic link in such a place is not ours and stays."""
        await asyncio.to_thread(self._delete_tree, prefix)

    def _delete_tree(self, prefix: str) -> None:
        if not TREE.fullmatch(prefix):
            raise ValueError(f"not a place of a job: {prefix!r}")
        path = self.root / prefix
        if path.resolve() != path or not path.is_dir():
            return
        with disk.translate_errors(prefix):
            shutil.rmtree(path, onerror=disk.ignore_missing)

    async def delete_job(self, job_id: str) -> None:
        """Remove everything a job has on disk."""
        await asyncio.to_thread(self.clear_scratch, job_id)
        await self.delete_tree(f"jobs/{job_id}")

    async def tidy_job(self, job_id: str, *, keep_attempt: int | None, keep_input: bool) -> None:
        """Remove what a job leaves behind besides its result: scratch, lost attempts, and the input unless it is
        wanted for a retry."""
        await asyncio.to_thread(self._tidy_job, job_id, keep_attempt, keep_input)

    def _tidy_job(self, job_id: str, keep_attempt: int | None, keep_input: bool) -> None:
        self.clear_scratch(job_id)
        folder = self.root / "jobs" / job_id
        if not JOB.fullmatch(job_id) or folder.resolve() != folder or not folder.is_dir():
            return
        with disk.translate_errors(f"jobs/{job_id}"):
            for entry in list(folder.iterdir()):
                attempt = ATTEMPT.fullmatch(entry.name)
                if attempt and int(attempt[1]) != keep_attempt:
                    self._delete_tree(f"jobs/{job_id}/{entry.name}")
                elif not keep_input and INPUT.fullmatch(entry.name) and entry.is_file() and not entry.is_symlink():
                    entry.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                folder.rmdir()  # only when it is empty

    def clear_scratch(self, job_id: str) -> None:
        """Remove the scratch of all attempts of a job."""
        for name in disk.real_folders(self.root / "scratch", job_id):
            match = _SCRATCH.fullmatch(name)
            if match and match[1] == job_id:
                self._delete_tree(f"scratch/{name}")

    def jobs_on_disk(self) -> list[str]:
        """Ids of the jobs that have a folder."""
        return [name for name in disk.real_folders(self.root / "jobs") if JOB.fullmatch(name)]

    def scratch_on_disk(self) -> list[tuple[str, str]]:
        """(name, job id) of every attempt's scratch folder."""
        matches = (_SCRATCH.fullmatch(name) for name in disk.real_folders(self.root / "scratch"))
        return [(match[0], match[1]) for match in matches if match]

    def has_result(self, job_id: str) -> bool:
        """Whether an attempt's folder is there."""
        return any(ATTEMPT.fullmatch(name) for name in disk.real_folders(self.root / "jobs" / job_id))
