"""The bytes that the files of an owner take up."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiosqlite

from engine.database.database import Database
from engine.database.sql import QUERIES
from engine.errors import StemifyError, TooMuchStored

_SHARE_OF_OTHERS = 0.8  # of the limit: files that others ask for leave room for the owner's next songs


class Usage:
    """Stored bytes by owner. `limit_bytes`: for each owner; 0 is no limit."""

    def __init__(self, database: Database, limit_bytes: int) -> None:
        self._database = database
        self._limit_bytes = limit_bytes

    async def stored_bytes(self, owner: str) -> int:
        row = await self._database.read_one(QUERIES["stored_bytes"], {"owner": owner})
        return int(row["bytes"]) if row else 0

    async def check(self, owner: str) -> None:
        """Raise `TooMuchStored` if the owner has reached the limit."""
        if not self._limit_bytes or (stored_bytes := await self.stored_bytes(owner)) < self._limit_bytes:
            return
        rows = await self._database.read(QUERIES["largest_stored"], {"owner": owner})
        largest = ", ".join(f"{row['title']} ({_size(row['bytes'])})" for row in rows)
        examples = f" The largest are: {largest}." if largest else ""
        raise TooMuchStored(
            f"Your jobs take up {_size(stored_bytes)} here; the limit is {_size(self._limit_bytes)}. "
            f"Delete jobs whose stems you no longer need, then try again.{examples}"
        )

    async def check_for_others(self, owner: str) -> None:
        """Raise `TooMuchStored` if people who only have a link may add no more to the files of the owner."""
        if self._limit_bytes and await self.stored_bytes(owner) >= _SHARE_OF_OTHERS * self._limit_bytes:
            raise TooMuchStored("There is too little room left for more files of this song.")


async def forget_files(database: Database, job_id: str) -> None:
    """Note that the files of a job were deleted, or are about to be."""

    async def work(writer: aiosqlite.Connection) -> None:
        await writer.execute_fetchall(QUERIES["forget_stored"], {"id": job_id})
        await writer.execute_fetchall(QUERIES["forget_result"], {"id": job_id})

    await database.write(work)


async def forget_input(database: Database, job_id: str) -> None:
    """Note that the song of a job was deleted, or is about to be."""
    await database.run(QUERIES["forget_input"], {"id": job_id})


@asynccontextmanager
async def counted(database: Database, job_id: str, count_bytes: int) -> AsyncIterator[None]:
    """Count files that the block publishes for a job.

    They are counted first, so that a crash does not leave them uncounted, and no longer if the block fails.
    """
    await _add_stored(database, job_id, count_bytes)
    try:
        yield
    except StemifyError:
        await _add_stored(database, job_id, -count_bytes)
        raise


async def _add_stored(database: Database, job_id: str, count_bytes: int) -> None:
    await database.run(QUERIES["add_stored"], {"id": job_id, "bytes": count_bytes})


def _size(count_bytes: int) -> str:
    return f"{count_bytes / 2**30:.1f} GB" if count_bytes >= 2**30 else f"{count_bytes / 2**20:.1f} MB"
