"""The interface of file storage.

A key is a path relative to the data folder, with "/": "jobs/<id>/a1/Song - vocals.mp3" (see `layout`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import ParamSpec, Protocol, TypeVar

from engine.errors import NotFound

P = ParamSpec("P")
T = TypeVar("T")

OnProgress = Callable[[float], None]
"""Called with the fraction done; what it raises ends the transfer."""


class RunInThread(Protocol):
    async def __call__(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...


@dataclass(frozen=True)
class StoredFile:
    """A file as it was when it was opened."""

    size: int  # bytes
    etag: str
    modified: datetime
    path: Path | None  # None: not on this disk
    read: Callable[[int, int], Iterator[bytes]]
    """Yield the bytes from a start to before an end, blocking."""
    in_thread: RunInThread
    """Run `read` in a thread."""

    async def stream(self, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes from `start` to before `end` in blocks. Raises `NotFound` if the file is gone."""
        blocks = self.read(start, self.size if end is None else min(end, self.size))
        while block := await self.in_thread(next, blocks, b""):
            yield block


class Storage(Protocol):
    """Files of jobs, on this disk or in object storage. Every method may raise `StorageFailed`."""

    root: Path
    """The data folder of this machine."""

    async def prepare(self) -> None:
        """Check at start that the storage can be used. Raises `StorageFailed`."""

    # For a worker, in the thread of an attempt.

    def fetch(self, key: str, folder: Path, on_progress: OnProgress = ...) -> Path:
        """Return a local path of the file, to be read only, after downloading it into `folder` where necessary.

        Raises `NotFound`.
        """

    def publish_folder(self, folder: Path, key: str, on_progress: OnProgress = ...) -> None:
        """Make the files in `folder` the result "jobs/<id>/a<attempt>". Raises `DiskFull`."""

    # For the main process.

    def local_path(self, key: str) -> Path:
        """Return the path of a key on this disk, whether or not it exists.

        Raises `NotFound` for a key that leaves the root, contains a symbolic link or is not a valid file name.
        """

    async def receive(
        self, stream: AsyncIterator[bytes], key: str, max_bytes: int, before_write: Callable[[int], None] = ...
    ) -> int:
        """Write a stream to the local path of `key` and return its size in bytes.

        The file appears complete and synced; on failure or cancellation nothing is left. `before_write` is called in
        a thread with the size of each block. Raises `TooLarge`, `DiskFull`, and what the stream and `before_write`
        raise.
        """

    async def upload(self, key: str) -> None:
        """Move a received file to where all workers can read it."""

    async def publish(self, local_file: Path, key: str) -> None:
        """Move a finished file to `key`. Raises `DiskFull`."""

    async def copy(self, source: str, key: str) -> bool:
        """Copy a file to a second key, and return False if it does not exist."""

    async def size(self, key: str) -> int | None:
        """Return the size of a file in bytes, or None if it does not exist."""

    async def open(self, key: str) -> StoredFile:
        """Open a file for reading. Raises `NotFound`."""

    async def redirect(self, key: str) -> str | None:
        """Return a short-lived link to the file in the store itself, if clients may use it. Keep it out of logs."""

    def open_file(self, key: str) -> AbstractAsyncContextManager[Path]:
        """Return a context in which the file is at a local path. Raises `NotFound`."""

    async def in_thread(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a call that may wait for the storage in a thread."""

    async def delete_tree(self, prefix: str) -> None:
        """Delete a folder that `layout.TREE` matches; a symbolic link in its place stays.

        Raises `ValueError` for any other folder.
        """

    async def delete_job(self, job_id: str) -> None:
        """Delete all files of a job."""

    async def tidy_job(self, job_id: str, *, keep_attempt: int | None, keep_input: bool) -> None:
        """Delete the scratch of a job, its other attempts and, unless `keep_input`, its input."""

    def clear_scratch(self, job_id: str) -> None:
        """Delete the scratch of all attempts of a job."""

    def jobs_on_disk(self) -> list[str]:
        """Return the ids of the jobs that have files."""

    def scratch_on_disk(self) -> list[tuple[str, str]]:
        """Return (folder name, job id) of the scratch of each attempt."""

    def has_result(self, job_id: str) -> bool:
        """Return True if an attempt of the job has a result."""


def no_progress(_fraction: float) -> None:
    """Ignore progress."""


def unlimited(_count_bytes: int) -> None:
    """Accept a block of any size."""


def gone(key: str) -> NotFound:
    return NotFound("This file was deleted or has expired.", detail=key)
