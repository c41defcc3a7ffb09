"""Purge the bot's database of jobs whose stems have expired."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime

import discord

from bot.database.database import BotDatabase
from engine.errors import NotFound, StemifyError
from engine.service.service import StemService

log = logging.getLogger(__name__)

_INTERVAL_S = 86_400.0
_BATCH_SIZE = 200


class DatabasePurger:
    """Purges the database at start and once a day; `now` is a clock that does not jump."""

    def __init__(
        self, database: BotDatabase, service: StemService, now: Callable[[], datetime], retention_days: float
    ) -> None:
        self._database = database
        self._service = service
        self._now = now
        self._retention_s = retention_days * 86_400
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="purge")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                await self.purge()
            except (StemifyError, sqlite3.Error) as error:
                log.warning("purging old messages failed, will retry in 24 h: %s", error)
            await asyncio.sleep(_INTERVAL_S)

    async def purge(self) -> None:
        """Delete the rows of expired jobs, which no list or button needs, and expired tokens."""
        before = self._now().timestamp() - self._retention_s
        while job_messages := await self._database.done_before(before, limit=_BATCH_SIZE):
            for job_message in job_messages:
                if not await self._is_kept(job_message.job_id):
                    await self._database.delete(job_message.job_id)
            before = job_messages[-1].created_at
        await self._database.clear_expired_tokens()
        await self._database.servers.delete_old_jobs()
        oldest = datetime.fromtimestamp(self._now().timestamp() - self._retention_s, UTC)
        await self._database.listening.delete_offers_before(discord.utils.time_snowflake(oldest))

    async def _is_kept(self, job_id: str) -> bool:
        try:
            return (await self._service.get(job_id)).job.keep
        except NotFound:
            return False
