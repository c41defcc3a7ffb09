"""`python -m bot`: the backend, the web page and, with a token, the Discord bot."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager, suppress
from typing import Protocol

from bot.connection import run_bot
from bot.database.database import BotDatabase
from config import settings as configuration
from config.variables import unknown_variables
from engine import logs
from engine.backend import Backend, ShutdownSignals, backend
from engine.errors import StemifyError
from engine.process.confinement import forbid_inspection
from engine.process.garbage_collection import shorten_collections

log = logging.getLogger(__name__)


class OpenBackend(Protocol):
    """Open a backend; tests pass a scripted one."""

    def __call__(
        self, settings: configuration.Settings, *, forced: asyncio.Event
    ) -> AbstractAsyncContextManager[Backend]: ...


def print_line(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def main(settings: configuration.Settings, open_backend: OpenBackend = backend) -> None:
    """Run until SIGTERM or SIGINT."""
    shutdown = ShutdownSignals()
    async with open_backend(settings, forced=shutdown.forced) as running:
        shorten_collections()
        print_line(f"Stemify's page is at {running.web_url}")
        if settings.discord.token is None:
            print_line("No Discord token is set (STEMIFY_DISCORD__TOKEN): serving only the page.")
            await shutdown.requested.wait()
            return
        database = await BotDatabase.open(settings.data_dir / "bot.sqlite3")
        try:
            await _until(shutdown.requested, run_bot(settings, running, database))
        finally:
            await database.close()


async def _until(stop: asyncio.Event, work: Coroutine[None, None, None]) -> None:
    """Run `work` until it ends, fails, or `stop` is set."""
    running, stopping = asyncio.create_task(work, name="discord"), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


def run(open_backend: OpenBackend = backend) -> None:
    os.umask(0o077)
    forbid_inspection()
    logs.escape_unencodable()
    try:
        settings = configuration.load()
        logs.configure(settings.log.level, json_lines=settings.log.json_lines)
        for warning in unknown_variables(configuration.Settings, os.environ):
            log.warning(warning)
        asyncio.run(main(settings, open_backend))
    except StemifyError as error:
        raise SystemExit(error.message) from None


if __name__ == "__main__":
    run()
