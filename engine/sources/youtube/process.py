"""Run one download in a child process (`child.py`), and leave no process behind."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

from engine.sources.errors import YoutubeFetcherDied
from engine.sources.youtube import child as youtube_child

KILL_GRACE_S = 0.5
LINE_BYTES = 1 << 20


@asynccontextmanager
async def downloading(
    request: Mapping[str, object], *, cwd: Path, env: Mapping[str, str]
) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    """Run a child for `request` and return its events.

    On exit, including errors and cancellation, the child and its descendants are gone. Iterating raises
    `YoutubeFetcherDied` if the events end too early.
    """
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-I", youtube_child.__file__,
        stdin=PIPE, stdout=PIPE, stderr=DEVNULL, start_new_session=True, cwd=cwd, env=env, limit=LINE_BYTES,
    )  # fmt: skip
    try:
        async with aclosing(_events(child, request)) as events:
            yield events
    finally:
        await _finish(asyncio.ensure_future(_end(child)))


async def _events(child: Process, request: Mapping[str, object]) -> AsyncGenerator[dict[str, Any], None]:
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.write(json.dumps(request).encode() + b"\n")  # stdin stays open: the child ends when it closes
        await child.stdin.drain()
        async for line in child.stdout:
            yield json.loads(line)
    except (ValueError, BrokenPipeError, ConnectionResetError) as error:
        raise YoutubeFetcherDied(detail=f"invalid message from the child: {type(error).__name__}") from error
    raise YoutubeFetcherDied(detail="the child ended without a result")


async def _end(child: Process) -> None:
    """Close the child's stdin, which ends it with its descendants; kill it if that fails."""
    assert child.stdin is not None
    child.stdin.close()
    try:
        async with asyncio.timeout(KILL_GRACE_S):
            await child.wait()
    except TimeoutError:
        child.kill()
        await child.wait()


async def _finish(ending: asyncio.Future[None]) -> None:
    """Await `ending` even if this task is cancelled, and then raise the cancellation."""
    cancelled: asyncio.CancelledError | None = None
    while not ending.done():
        try:
            await asyncio.shield(ending)
        except asyncio.CancelledError as error:
            cancelled = error
    ending.result()
    if cancelled is not None:
        raise cancelled
