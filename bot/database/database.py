"""The bot's SQLite database: the messages of jobs, their announcements, batches, and the state of `/listen`."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Self

import aiosqlite

from bot.database.batches import BatchStore
from bot.database.listening import SCHEMA as LISTENING_SCHEMA
from bot.database.listening import ListeningStore
from bot.database.servers import SCHEMA as SERVERS_SCHEMA
from bot.database.servers import ServerStore
from bot.database.voice import VoiceStore

SCHEMA = """
CREATE TABLE IF NOT EXISTS posting (
    job_id      TEXT PRIMARY KEY,
    user_id     INTEGER NOT NULL,
    guild_id    INTEGER,
    channel_id  INTEGER NOT NULL,
    message_id  INTEGER,
    original    INTEGER NOT NULL,
    reply_to    INTEGER,
    token       TEXT,
    token_until REAL NOT NULL,
    reachable   INTEGER NOT NULL,
    limit_bytes INTEGER NOT NULL,
    state       TEXT NOT NULL,
    created_at  REAL NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS posting_by_state ON posting (state);
CREATE TABLE IF NOT EXISTS delivery (
    job_id     TEXT NOT NULL,
    part       INTEGER NOT NULL,
    sent       INTEGER NOT NULL,
    tried_at   REAL NOT NULL,
    channel_id INTEGER,
    message_id INTEGER,
    PRIMARY KEY (job_id, part)
) STRICT;
CREATE TABLE IF NOT EXISTS mix_message (
    job_id     TEXT NOT NULL,
    mix        TEXT NOT NULL,
    channel_id INTEGER NOT NULL,
    message_id INTEGER NOT NULL,
    PRIMARY KEY (job_id, mix)
) STRICT;
CREATE TABLE IF NOT EXISTS batch_song (
    batch_id TEXT NOT NULL,
    position INTEGER NOT NULL,
    job_id   TEXT NOT NULL UNIQUE,
    name     TEXT NOT NULL,
    refusal  TEXT,
    PRIMARY KEY (batch_id, position)
) STRICT;
CREATE TABLE IF NOT EXISTS private_job (job_id TEXT PRIMARY KEY) STRICT;
CREATE TABLE IF NOT EXISTS note (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
PRAGMA user_version = 1;
"""

_SELECT = """
SELECT posting.*, (SELECT batch_id FROM batch_song WHERE batch_song.job_id = posting.job_id) AS batch_id,
    EXISTS (SELECT 1 FROM batch_song WHERE batch_song.batch_id = posting.job_id) AS is_batch,
    EXISTS (SELECT 1 FROM private_job WHERE private_job.job_id = posting.job_id) AS is_private
FROM posting
"""


class JobMessageState(StrEnum):
    """The state of a job's message; every state but DONE is resumed after a restart."""

    SUBMITTING = "submitting"  # recorded before the job is submitted
    FOLLOWING = "following"  # the job was accepted; its message is kept current
    DONE = "done"  # final card shown and announced
    DELETING = "deleting"  # the job and its messages are being deleted


@dataclass(frozen=True)
class JobMessage:
    """The message of a job or of a batch, and how to edit it.

    A batch has an id like that of a job. Its songs have the same message, with their own job ids and its `batch_id`.
    """

    job_id: str
    user_id: int
    channel_id: int
    guild_id: int | None = None
    message_id: int | None = None
    original: bool = True  # the message is the response to the token's interaction
    reply_to: int | None = None  # the message to reply to, until ours has been sent
    token: str | None = None  # of the interaction; valid for 15 minutes
    token_until: float = 0.0  # unix seconds
    reachable: bool = True  # the bot may write in this channel
    limit_bytes: int = 10 * 1024 * 1024  # limit of a file in this channel
    state: JobMessageState = JobMessageState.SUBMITTING
    created_at: float = 0.0
    batch_id: str | None = None
    is_batch: bool = False
    is_private: bool = False  # only the user sees its messages
    jobs_per_hour: int | None = None  # that the server allows the user; not stored, applied when the job starts

    @property
    def owner(self) -> str:
        """The user as the owner of jobs."""
        return f"discord:{self.user_id}"

    @property
    def token_alive(self) -> bool:
        return self.token is not None and time.time() < self.token_until - 5

    @property
    def is_requested(self) -> bool:
        """Whether the user asked for the job; otherwise they posted audio where the bot splits all of it."""
        return self.reply_to is None

    @property
    def url(self) -> str | None:
        return None if self.message_id is None else message_url(self, self.channel_id, self.message_id)


def message_url(job_message: JobMessage, channel_id: int, message_id: int) -> str:
    """Return the link to a message about a job, in its channel or in a direct message."""
    is_thread = channel_id == job_message.message_id  # below the job's message
    guild_id = job_message.guild_id if is_thread or channel_id == job_message.channel_id else None
    return f"https://discord.com/channels/{guild_id or '@me'}/{channel_id}/{message_id}"


@dataclass(frozen=True)
class AnnouncementPart:
    """One message of an announcement; if not `sent`, sending began at `tried_at` and may have succeeded."""

    part: int
    sent: bool
    tried_at: float
    channel_id: int | None
    message_id: int | None


class BotDatabase:
    """An open database; every write is on disk when its method returns."""

    def __init__(self, database: aiosqlite.Connection) -> None:
        self._database = database
        self.batches = BatchStore(database)
        self.listening = ListeningStore(database)
        self.servers = ServerStore(database)
        self.voice = VoiceStore(database)

    @classmethod
    async def open(cls, path: Path) -> Self:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        database = await aiosqlite.connect(path, isolation_level=None)
        database.row_factory = sqlite3.Row
        await database.execute("PRAGMA journal_mode = WAL")
        await database.execute("PRAGMA synchronous = FULL")  # a power cut must not lose an announcement
        await database.execute("PRAGMA busy_timeout = 5000")
        await database.executescript(SCHEMA + LISTENING_SCHEMA + SERVERS_SCHEMA + VoiceStore.SCHEMA)
        opened = cls(database)
        await opened.servers.load()
        return opened

    async def close(self) -> None:
        await self._database.close()

    # Job messages.

    async def add(self, job_message: JobMessage) -> None:
        await self._database.execute(
            "INSERT INTO posting (job_id, user_id, guild_id, channel_id, message_id, original, reply_to, token,"
            " token_until, reachable, limit_bytes, state, created_at) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (
                job_message.job_id,
                job_message.user_id,
                job_message.guild_id,
                job_message.channel_id,
                job_message.message_id,
                job_message.original,
                job_message.reply_to,
                job_message.token,
                job_message.token_until,
                job_message.reachable,
                job_message.limit_bytes,
                job_message.state.value,
                time.time(),
            ),
        )
        if job_message.is_private:
            await self._database.execute("INSERT OR IGNORE INTO private_job VALUES (?)", (job_message.job_id,))

    async def job_message(self, job_id: str) -> JobMessage | None:
        rows = await self._select("job_id = ?", (job_id,))
        return rows[0] if rows else None

    async def is_private(self, job_id: str) -> bool:
        job_message = await self.job_message(job_id)
        return job_message is not None and job_message.is_private

    async def unfinished(self) -> list[JobMessage]:
        return await self._select("state <> ?", (JobMessageState.DONE.value,))

    async def unfinished_about(self, message_id: int) -> list[JobMessage]:
        """Return the unfinished jobs and batches with this message, or started from it."""
        where = (
            "state IN (?, ?) AND (message_id = ? OR reply_to = ?"
            " OR job_id IN (SELECT job_id FROM job_source WHERE message_id = ?))"
        )
        states = (JobMessageState.SUBMITTING.value, JobMessageState.FOLLOWING.value)
        found = await self._select(where, (*states, message_id, message_id, message_id))
        return [job_message for job_message in found if job_message.batch_id is None]

    async def job_messages_of(self, user_id: int) -> list[JobMessage]:
        return await self._select("user_id = ?", (user_id,))

    async def done_before(self, at: float, *, limit: int) -> list[JobMessage]:
        """Return finished messages, newest first: the last one's `created_at` is the next `at`."""
        where = "state = ? AND created_at < ? ORDER BY created_at DESC LIMIT ?"
        return await self._select(where, (JobMessageState.DONE.value, at, limit))

    async def clear_expired_tokens(self) -> None:
        await self._database.execute("UPDATE posting SET token = NULL WHERE token_until < ?", (time.time(),))

    async def job_messages(self, job_ids: Iterable[str]) -> dict[str, JobMessage]:
        wanted = list(job_ids)
        marks = ",".join("?" * len(wanted))
        return {job_message.job_id: job_message for job_message in await self._select(f"job_id IN ({marks})", wanted)}

    async def _select(self, where: str, values: Iterable[object]) -> list[JobMessage]:
        order = "" if "ORDER BY" in where else " ORDER BY created_at"
        query = f"{_SELECT} WHERE {where}{order}"
        rows = await self._database.execute_fetchall(query, tuple(values))
        return [
            JobMessage(
                **{
                    **dict(row),
                    "original": bool(row["original"]),
                    "reachable": bool(row["reachable"]),
                    "is_batch": bool(row["is_batch"]),
                    "is_private": bool(row["is_private"]),
                    "state": JobMessageState(row["state"]),
                }
            )
            for row in rows
        ]

    async def set_state(self, job_id: str, state: JobMessageState) -> None:
        await self._database.execute("UPDATE posting SET state = ? WHERE job_id = ?", (state.value, job_id))

    async def set_message(self, job_id: str, message_id: int) -> None:
        await self._database.execute("UPDATE posting SET message_id = ? WHERE job_id = ?", (message_id, job_id))

    async def set_limit(self, job_id: str, limit_bytes: int) -> None:
        await self._database.execute("UPDATE posting SET limit_bytes = ? WHERE job_id = ?", (limit_bytes, job_id))

    async def set_token(self, job_id: str, token: str, token_until: float) -> None:
        """Store the token of a new interaction on the job's message."""
        await self._database.execute(
            "UPDATE posting SET token = ?, token_until = ?, original = 1 WHERE job_id = ?", (token, token_until, job_id)
        )

    async def delete(self, job_id: str) -> None:
        for table in ("posting", "delivery", "mix_message", "private_job"):
            await self._database.execute(f"DELETE FROM {table} WHERE job_id = ?", (job_id,))  # noqa: S608
        await self.batches.delete(job_id)
        await self.listening.delete_source(job_id)

    # Mixes.

    async def mix_messages(self, job_id: str) -> dict[str, tuple[int, int]]:
        """Return channel and id of the message with each mix that was posted."""
        rows = await self._database.execute_fetchall(
            "SELECT mix, channel_id, message_id FROM mix_message WHERE job_id = ?", (job_id,)
        )
        return {row[0]: (row[1], row[2]) for row in rows}

    async def set_mix_message(self, job_id: str, mix: str, channel_id: int, message_id: int) -> None:
        await self._database.execute(
            "INSERT OR REPLACE INTO mix_message (job_id, mix, channel_id, message_id) VALUES (?, ?, ?, ?)",
            (job_id, mix, channel_id, message_id),
        )

    # Announcements.

    async def announcement_parts(self, job_id: str) -> dict[int, AnnouncementPart]:
        rows = await self._database.execute_fetchall(
            "SELECT part, sent, tried_at, channel_id, message_id FROM delivery WHERE job_id = ?", (job_id,)
        )
        return {row[0]: AnnouncementPart(row[0], bool(row[1]), row[2], row[3], row[4]) for row in rows}

    async def mark_sending(self, job_id: str, part: int) -> None:
        """Record an attempt; call it before the message is sent."""
        await self._database.execute(
            "INSERT INTO delivery (job_id, part, sent, tried_at) VALUES (?, ?, 0, ?)"
            " ON CONFLICT (job_id, part) DO UPDATE SET tried_at = excluded.tried_at",
            (job_id, part, time.time()),
        )

    async def mark_sent(self, job_id: str, part: int, channel_id: int | None, message_id: int | None) -> None:
        await self._database.execute(
            "INSERT INTO delivery (job_id, part, sent, tried_at, channel_id, message_id) VALUES (?, ?, 1, ?, ?, ?)"
            " ON CONFLICT (job_id, part) DO UPDATE SET sent = 1, channel_id = excluded.channel_id,"
            " message_id = excluded.message_id",
            (job_id, part, time.time(), channel_id, message_id),
        )

    async def get_value(self, name: str) -> str | None:
        for row in await self._database.execute_fetchall("SELECT value FROM note WHERE name = ?", (name,)):
            return str(row[0])
        return None

    async def set_value(self, name: str, value: str) -> None:
        await self._database.execute("INSERT OR REPLACE INTO note (name, value) VALUES (?, ?)", (name, value))
