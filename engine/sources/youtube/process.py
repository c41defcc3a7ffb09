"""The parent's side of one `youtube_child.py`: start it, hear it, and leave no process behind, whatever happens."""

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
    """Run a child for `request`; gives its events as they come. On the way out, also by an error or a cancelled task,
    the child and all that it started are gone. The events raise `YoutubeFetcherDied` when they end too early."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-I", youtube_child.__file__,
        stdin=PIPE, stdout=PIPE, stderr=DEVNULL, start_new_session=True, cwd=cwd, env=env, limit=LINE_BYTES,
    )  # fmt: skip
    try:
        async with aclosing(_events(child, request)) as events:
            yield events
    finally:
        await _to_its_end(asyncio.ensure_future(_end(child)))


async def _events(child: Process, request: Mapping[str, object]) -> AsyncGenerator[dict[str, Any], None]:
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.write(json.dumps(request).encode() + b"\n")  # stdin stays open: the child's lifeline
        await child.stdin.drain()
        async for line in child.stdout:
            yield json.loads(line)
    except (ValueError, BrokenPipeError, ConnectionResetError) as error:
        raise YoutubeFetcherDied(detail=f"the child's word is not understood: {type(error).__name__}") from error
    raise YoutubeFetcherDied(detail="the child ended without a word")


async def _end(child: Process) -> None:
    """The child ends itself, and all that it started, when its stdin closes. Should it not, it is killed, and its own
    child dies with it."""
    assert child.stdin is not None
    child.stdin.close()
    try:
        async with asyncio.timeout(KILL_GRACE_S):
            await child.wait()
    except TimeoutError:
        child.kill()
        await child.wait()


async def _to_its_end(ending: asyncio.Future[None]) -> None:
    """Await `ending`, however often this task is cancelled meanwhile."""
    cancelled: asyncio.CancelledError | None = None
    while not ending.done():
        try:
            await asyncio.shield(ending)
        except asyncio.CancelledError as error:
            cancelled = error
    ending.result()
    if cancelled is not None:
        raise cancelled
