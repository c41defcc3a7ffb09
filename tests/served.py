"""A whole backend on a port of its own, in a thread of its own: for clients that block."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from config.settings import Settings
from engine.backend import backend


@contextmanager
def served(settings: Settings) -> Iterator[str]:
    """Its address, once a worker is ready."""
    started, ended = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()
    address: list[str] = []

    async def serve() -> None:
        try:
            async with backend(settings) as house:
                async with asyncio.timeout(90):
                    while not (await house.service.snapshot()).usable_models:
                        await asyncio.sleep(0.02)
                address.append(str(house.web_url))
                started.set()
                await ended.wait()
        finally:
            started.set()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), name="served")
    thread.start()
    try:
        started.wait()
        assert address, "the backend did not start"
        yield address[0]
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()
        loop.close()
