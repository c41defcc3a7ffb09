"""The settings of servers, and the jobs that were started in them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import aiosqlite
from pydantic import BaseModel, ConfigDict, Field

from engine.jobs.options import OutputFormat, Quality

SCHEMA = """
CREATE TABLE IF NOT EXISTS server (guild_id INTEGER PRIMARY KEY, settings TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS server_job (
    job_id   TEXT PRIMARY KEY,
    guild_id INTEGER NOT NULL,
    user_id  INTEGER NOT NULL,
    at       REAL NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS server_job_by_server ON server_job (guild_id, at);
"""

HOUR_S = 3600.0
KEPT_S = 30 * 24 * HOUR_S  # jobs, for `/settings activity`

_ADD_JOB = """
INSERT INTO server_job (job_id, guild_id, user_id, at) SELECT :job, :guild, :user, :at
WHERE :limit IS NULL OR :limit >
    (SELECT COUNT(*) FROM server_job WHERE guild_id = :guild AND user_id = :user AND at > :after)
"""


class ServerSettings(BaseModel):
    """What the managers of a server have chosen. Without a choice, the operator's applies."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    model: str | None = None
    quality: Quality | None = None
    output_format: OutputFormat | None = None
    roles: frozenset[int] = frozenset()  # that may start jobs; empty: everyone
    channels: frozenset[int] = frozenset()  # in which jobs may be started; empty: all
    blocked: frozenset[int] = frozenset()  # users
    jobs_per_hour: int | None = None  # of a user, in this server
    role_jobs_per_hour: dict[int, int] = Field(default_factory=dict)
    uses_threads: bool = False  # stems are posted in a thread of the card
    only_requester_mixes: bool = False
    restricts_player: bool = False  # in voice channels, to the requester and to members with the role
    player_role: int | None = None

    def without_role(self, role: int) -> dict[str, object]:
        """Return the changes for a role that was deleted."""
        limits = {key: value for key, value in self.role_jobs_per_hour.items() if key != role}
        player_role = None if self.player_role == role else self.player_role
        return {"roles": self.roles - {role}, "role_jobs_per_hour": limits, "player_role": player_role}

    def uses_role(self, role: int) -> bool:
        return role in self.roles or role in self.role_jobs_per_hour or role == self.player_role


@dataclass(frozen=True)
class ServerJob:
    job_id: str
    user_id: int
    at: float  # unix seconds


class ServerStore:
    """Settings by server, held in memory and in the bot's database."""

    def __init__(self, database: aiosqlite.Connection) -> None:
        self._database = database
        self._settings: dict[int, ServerSettings] = {}

    async def load(self) -> None:
        rows = await self._database.execute_fetchall("SELECT guild_id, settings FROM server")
        self._settings = {row[0]: ServerSettings.model_validate_json(row[1]) for row in rows}

    def of(self, guild_id: int | None) -> ServerSettings:
        return self._settings.get(guild_id or 0, ServerSettings())

    async def change(self, guild_id: int, change: Callable[[ServerSettings], dict[str, object]]) -> ServerSettings:
        """Store what `change` returns for the current settings, and return the new ones."""
        current = self.of(guild_id)
        changed = self._settings[guild_id] = current.model_copy(update=change(current))
        await self._database.execute(
            "INSERT OR REPLACE INTO server (guild_id, settings) VALUES (?, ?)", (guild_id, changed.model_dump_json())
        )
        return changed

    async def delete(self, guild_id: int) -> None:
        self._settings.pop(guild_id, None)
        await self._database.execute("DELETE FROM server WHERE guild_id = ?", (guild_id,))
        await self._database.execute("DELETE FROM server_job WHERE guild_id = ?", (guild_id,))

    # Jobs.

    async def add_job(self, job_id: str, guild_id: int, user_id: int, *, limit: int | None) -> bool:
        """Record a job; return False if the user has started `limit` jobs in the last hour."""
        await self.delete_old_jobs()
        now = time.time()
        values = {"job": job_id, "guild": guild_id, "user": user_id, "at": now, "limit": limit, "after": now - HOUR_S}
        return (await self._database.execute(_ADD_JOB, values)).rowcount > 0

    async def delete_old_jobs(self) -> None:
        """Forget jobs that `/settings activity` no longer shows."""
        await self._database.execute("DELETE FROM server_job WHERE at < ?", (time.time() - KEPT_S,))

    async def delete_job(self, job_id: str) -> None:
        await self._database.execute("DELETE FROM server_job WHERE job_id = ?", (job_id,))

    async def delete_jobs_of(self, user_id: int) -> None:
        """Forget what a user started more than an hour ago; the rest still counts toward the limits."""
        await self._database.execute(
            "DELETE FROM server_job WHERE user_id = ? AND at < ?", (user_id, time.time() - HOUR_S)
        )

    async def next_free_s(self, guild_id: int, user_id: int, limit: int) -> float:
        """Return the seconds until the user may start another job under this limit."""
        query = "SELECT at FROM server_job WHERE guild_id = ? AND user_id = ? ORDER BY at DESC LIMIT 1 OFFSET ?"
        for row in await self._database.execute_fetchall(query, (guild_id, user_id, max(limit, 1) - 1)):
            return max(1.0, float(row[0]) + HOUR_S - time.time())
        return HOUR_S

    async def jobs(self, guild_id: int, *, limit: int) -> list[ServerJob]:
        """Return the newest jobs of a server."""
        query = "SELECT job_id, user_id, at FROM server_job WHERE guild_id = ? ORDER BY at DESC LIMIT ?"
        rows = await self._database.execute_fetchall(query, (guild_id, limit))
        return [ServerJob(*row) for row in rows]
