"""What the bot plays in voice channels, so that it continues after a restart."""

from __future__ import annotations

import aiosqlite


class VoiceStore:
    SCHEMA = "CREATE TABLE IF NOT EXISTS voice_session (guild_id INTEGER PRIMARY KEY, state TEXT NOT NULL) STRICT;"

    def __init__(self, database: aiosqlite.Connection) -> None:
        self._database = database

    async def states(self) -> dict[int, str]:
        """Return the state of each server's session."""
        rows = await self._database.execute_fetchall("SELECT guild_id, state FROM voice_session")
        return {row[0]: row[1] for row in rows}

    async def save(self, guild_id: int, state: str) -> None:
        await self._database.execute(
            "INSERT OR REPLACE INTO voice_session (guild_id, state) VALUES (?, ?)", (guild_id, state)
        )

    async def delete(self, guild_id: int) -> None:
        await self._database.execute("DELETE FROM voice_session WHERE guild_id = ?", (guild_id,))
