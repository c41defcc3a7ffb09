"""Full collections do not look at the objects of a start."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from bot import __main__ as bot_main
from config.settings import load
from engine.process.garbage_collection import shorten_collections


def test_present_objects_are_not_collected_again() -> None:
    try:
        shorten_collections()
        assert gc.get_freeze_count() > 10_000
        assert len(gc.get_objects()) < 10_000
    finally:
        gc.unfreeze()


async def test_server_shortens_collections_once_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    @asynccontextmanager
    async def scripted(settings: object, *, forced: asyncio.Event) -> AsyncIterator[Any]:
        yield SimpleNamespace(web_url="http://127.0.0.1:1")

    shutdown = SimpleNamespace(requested=asyncio.Event(), forced=asyncio.Event())
    shutdown.requested.set()
    monkeypatch.setattr(bot_main, "ShutdownSignals", lambda: shutdown)
    try:
        await bot_main.main(load(), scripted)
        assert gc.get_freeze_count() > 10_000
    finally:
        gc.unfreeze()
