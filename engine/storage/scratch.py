"""The files that are always on this machine: received uploads and the scratch of attempts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from engine.errors import NotFound, TooLarge
from engine.storage import disk
from engine.storage.layout import ATTEMPT, INPUT, JOB, SCRATCH, check_tree
from engine.storage.storage import unlimited

BLOCK_BYTES = 2**20


class Scratch:
    """The part of `Storage` that both kinds share. `root` is the data folder, created if missing."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.root = root.resolve()

    def local_path(self, key: str) -> Path:
        parts = key.split("/")
        if "\0" in key or any(part in ("", ".", "..") for part in parts):
            raise NotFound("This file does not exist.", detail=f"refused key {key!r}")
        path = self.root.joinpath(*parts)
        try:
            is_plain = max(len(os.fsencode(part)) for part in parts) <= 255 and path.resolve() == path
        except (OSError, ValueError, RuntimeError):  # an impossible name, a loop of links
            is_plain = False
        if not is_plain:
            raise NotFound("This file does not exist.", detail=f"refused key {key!r}")
        return path

    async def receive(
        self,
        stream: AsyncIterator[bytes],
        key: str,
        max_bytes: int,
        before_write: Callable[[int], None] = unlimited,
    ) -> int:
        path = self.local_path(key)
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        size = 0
        with disk.translate_errors(key):
            created = await asyncio.to_thread(disk.make_folder, path.parent)
            try:
                with part.open("xb") as file:

                    def write(block: bytearray) -> None:
                        before_write(len(block))
                        file.write(block)
                        file.flush()

                    buffer = bytearray()
                    async for block in stream:
                        size += len(block)
                        if size > max_bytes:
                            raise TooLarge.over(max_bytes)
                        buffer += block
                        if len(buffer) >= BLOCK_BYTES:
                            await asyncio.to_thread(write, buffer)
                            buffer = bytearray()
                    await asyncio.to_thread(write, buffer)
                    await asyncio.to_thread(disk.sync, file.fileno())
                part.replace(path)
                await asyncio.to_thread(disk.sync_folder, path.parent)
            except BaseException:
                part.unlink(missing_ok=True)
                for folder in created:
                    with contextlib.suppress(OSError):  # another upload uses it
                        folder.rmdir()
                raise
        return size

    def clear_scratch(self, job_id: str) -> None:
        for name in disk.real_folders(self.root / "scratch", job_id):
            match = SCRATCH.fullmatch(name)
            if match and match[1] == job_id:
                self.delete_local(f"scratch/{name}")

    def scratch_on_disk(self) -> list[tuple[str, str]]:
        matches = (SCRATCH.fullmatch(name) for name in disk.real_folders(self.root / "scratch"))
        return [(match[0], match[1]) for match in matches if match]

    def local_jobs(self) -> list[str]:
        return [name for name in disk.real_folders(self.root / "jobs") if JOB.fullmatch(name)]

    def delete_local(self, prefix: str) -> None:
        """Delete a folder of this disk as `Storage.delete_tree` does."""
        check_tree(prefix)
        path = self.root / prefix
        if path.resolve() != path or not path.is_dir():
            return
        with disk.translate_errors(prefix):
            shutil.rmtree(path, onerror=disk.ignore_missing)

    def tidy_local(self, job_id: str, keep_attempt: int | None, keep_input: bool) -> None:
        """Delete files of this disk as `Storage.tidy_job` does."""
        self.clear_scratch(job_id)
        folder = self.root / "jobs" / job_id
        if not JOB.fullmatch(job_id) or folder.resolve() != folder or not folder.is_dir():
            return
        with disk.translate_errors(f"jobs/{job_id}"):
            for entry in list(folder.iterdir()):
                attempt = ATTEMPT.fullmatch(entry.name)
                if attempt and int(attempt[1]) != keep_attempt:
                    self.delete_local(f"jobs/{job_id}/{entry.name}")
                elif not keep_input and INPUT.fullmatch(entry.name) and entry.is_file() and not entry.is_symlink():
                    entry.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                folder.rmdir()  # only if empty
