"""Slots that owners take in turn."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """At most `total` slots in use (None: no limit), at most `per_owner` of them by one owner.

    Each owner has a queue; a free slot goes to the owner that has waited longest since its last slot.
    """

    def __init__(self, *, total: int | None, per_owner: int) -> None:
        self._total = total
        self._per_owner = per_owner
        self._used: Counter[str] = Counter()
        self._queues: dict[str, deque[asyncio.Future[None]]] = {}  # the owner whose turn is next comes first

    def waiting(self, owner: str) -> int:
        """Return the number of requests of `owner` that wait for a slot."""
        return len(self._queues.get(owner, ()))

    @asynccontextmanager
    async def turn(self, owner: str, *, timeout_s: float | None = None) -> AsyncIterator[None]:
        """Hold a slot. Raises `TimeoutError` if there is none within `timeout_s`."""
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(owner, deque()).append(granted)
        self._grant()
        try:
            async with asyncio.timeout(timeout_s):
                await granted
        except BaseException:
            if granted.done() and not granted.cancelled():
                self._release(owner)
            else:
                self._leave(owner, granted)
            raise
        try:
            yield
        finally:
            self._release(owner)

    def _grant(self) -> None:
        while (owner := self._next()) is not None:
            queue = self._queues.pop(owner)
            request = queue.popleft()
            if queue:
                self._queues[owner] = queue  # behind the other owners
            if not request.cancelled():
                self._used[owner] += 1
                request.set_result(None)

    def _next(self) -> str | None:
        if self._total is not None and self._used.total() >= self._total:
            return None
        return next((owner for owner in self._queues if self._used[owner] < self._per_owner), None)

    def _release(self, owner: str) -> None:
        self._used[owner] -= 1
        if not self._used[owner]:
            del self._used[owner]
        self._grant()

    def _leave(self, owner: str, request: asyncio.Future[None]) -> None:
        queue = self._queues.get(owner, deque())
        with contextlib.suppress(ValueError):
            queue.remove(request)
        if not queue:
            self._queues.pop(owner, None)
