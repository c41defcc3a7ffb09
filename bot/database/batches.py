"""The songs of batches in the bot's database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import aiosqlite


@dataclass(frozen=True)
class BatchSong:
    """A song of a batch; `refusal` says why it has no job."""

    job_id: str
    name: str
    refusal: str | None = None


class BatchStore:
    def __init__(self, database: aiosqlite.Connection) -> None:
        self._database = database

    async def add(self, batch_id: str, songs: Sequence[BatchSong]) -> None:
        await self._database.executemany(
            "INSERT INTO batch_song (batch_id, position, job_id, name, refusal) VALUES (?, ?, ?, ?, ?)",
            [(batch_id, at, song.job_id, song.name, song.refusal) for at, song in enumerate(songs)],
        )

    async def songs(self, batch_id: str) -> list[BatchSong]:
        rows = await self._database.execute_fetchall(
            "SELECT job_id, name, refusal FROM batch_song WHERE batch_id = ? ORDER BY position", (batch_id,)
        )
        return [BatchSong(row[0], row[1], row[2]) for row in rows]

    async def refuse(self, job_id: str, refusal: str) -> None:
        await self._database.execute("UPDATE batch_song SET refusal = ? WHERE job_id = ?", (refusal, job_id))

    async def set_message(self, batch_id: str, message_id: int) -> None:
        """Record the batch's message for the batch and its songs."""
        await self._database.execute(
            "UPDATE posting SET message_id = ?1 WHERE job_id = ?2"
            " OR job_id IN (SELECT job_id FROM batch_song WHERE batch_id = ?2)",
            (message_id, batch_id),
        )

    async def delete(self, batch_id: str) -> None:
        await self._database.execute("DELETE FROM batch_song WHERE batch_id = ?", (batch_id,))
