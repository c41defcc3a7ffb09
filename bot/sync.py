"""Sync the application commands with Discord when they have changed."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import logging
from typing import Any

import discord
from discord import app_commands

from bot.database.database import BotDatabase

log = logging.getLogger(__name__)

FIRST_WAIT_S = 5.0  # how long startup waits for the sync
RETRY_PAUSES_S: tuple[float, ...] = (60.0, 300.0, 1800.0, 3600.0)


class CommandSync:
    """Retries the sync until it succeeds; a failure does not delay the connection."""

    def __init__(self, tree: app_commands.CommandTree[Any], database: BotDatabase) -> None:
        self._tree = tree
        self._database = database
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the sync and wait a few seconds, so that commands are usually current when the bot connects."""
        self._task = asyncio.create_task(self._run(), name="command sync")
        await asyncio.wait({self._task}, timeout=FIRST_WAIT_S)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        for attempt in itertools.count():
            pause_s = RETRY_PAUSES_S[min(attempt, len(RETRY_PAUSES_S) - 1)]
            try:
                await self._sync()
            except Exception as error:
                log.warning(
                    "could not sync the commands, next attempt in %.0f s; Discord keeps the previous ones: %s",
                    pause_s,
                    _reason(error),
                )
                await asyncio.sleep(pause_s)
            else:
                return

    async def _sync(self) -> None:
        """Send the commands unless they equal the last ones sent. Raises Discord's errors."""
        payload = sorted(
            (command.to_dict(self._tree) for command in self._tree.get_commands()),
            key=lambda command: (str(command["type"]), str(command["name"])),
        )
        digest = hashlib.sha256(json.dumps(payload, sort_keys=True).encode()).hexdigest()
        current = f"{self._tree.client.application_id}:{digest}"
        if await self._database.get_value("commands") == current:
            return
        await self._tree.sync()
        await self._database.set_value("commands", current)
        log.info("commands synced")


def _reason(error: Exception) -> str:
    if isinstance(error, discord.HTTPException):
        return f"Discord answered {error.status} (code {error.code}: {error.text[:200]})"
    return f"{type(error).__name__}: {error}"[:300]
