"""The channels of `/listen`, the offers under posted songs, and the messages from which jobs were started."""

from __future__ import annotations

from dataclasses import dataclass

import aiosqlite

SCHEMA = """
CREATE TABLE IF NOT EXISTS listening (
    channel_id INTEGER PRIMARY KEY,
    guild_id   INTEGER NOT NULL,
    mode       TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS offer (
    source_id  INTEGER PRIMARY KEY,
    channel_id INTEGER NOT NULL,
    message_id INTEGER NOT NULL,
    url        TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS job_source (job_id TEXT PRIMARY KEY, message_id INTEGER NOT NULL) STRICT;
"""


@dataclass(frozen=True)
class Offer:
    """The bot's reply to a message with songs; `url`: of the message of the job that it started."""

    source_id: int
    channel_id: int
    message_id: int
    url: str | None = None


class ListeningStore:
    def __init__(self, database: aiosqlite.Connection) -> None:
        self._database = database

    async def modes(self, guild_id: int | None = None) -> dict[int, str]:
        """Return the mode of each channel and thread that has one, of one server or of all."""
        rows = await self._database.execute_fetchall(
            "SELECT channel_id, mode FROM listening WHERE ?1 IS NULL OR guild_id = ?1 ORDER BY channel_id", (guild_id,)
        )
        return {row[0]: row[1] for row in rows}

    async def set_mode(self, channel_id: int, guild_id: int, mode: str) -> None:
        await self._database.execute(
            "INSERT OR REPLACE INTO listening (channel_id, guild_id, mode) VALUES (?, ?, ?)",
            (channel_id, guild_id, mode),
        )

    async def delete_channel(self, channel_id: int) -> None:
        await self._database.execute("DELETE FROM listening WHERE channel_id = ?", (channel_id,))

    async def delete_guild(self, guild_id: int) -> None:
        await self._database.execute("DELETE FROM listening WHERE guild_id = ?", (guild_id,))

    # Offers.

    async def add_offer(self, offer: Offer) -> None:
        await self._database.execute(
            "INSERT OR REPLACE INTO offer (source_id, channel_id, message_id, url) VALUES (?, ?, ?, ?)",
            (offer.source_id, offer.channel_id, offer.message_id, offer.url),
        )

    async def offer(self, source_id: int) -> Offer | None:
        for row in await self._database.execute_fetchall("SELECT * FROM offer WHERE source_id = ?", (source_id,)):
            return Offer(row["source_id"], row["channel_id"], row["message_id"], row["url"])
        return None

    async def delete_offer(self, source_id: int) -> None:
        await self._database.execute("DELETE FROM offer WHERE source_id = ?", (source_id,))

    async def delete_offers_before(self, source_id: int) -> None:
        """Delete the records of old offers; ids of messages contain their time."""
        await self._database.execute("DELETE FROM offer WHERE source_id < ?", (source_id,))

    # Sources of jobs.

    async def set_source(self, job_id: str, message_id: int) -> None:
        """Record the message from which a job or a batch was started."""
        await self._database.execute(
            "INSERT OR REPLACE INTO job_source (job_id, message_id) VALUES (?, ?)", (job_id, message_id)
        )

    async def delete_source(self, job_id: str) -> None:
        await self._database.execute("DELETE FROM job_source WHERE job_id = ?", (job_id,))
