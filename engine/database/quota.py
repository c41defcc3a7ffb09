"""Rate limits of an owner: jobs an hour, expensive refusals an hour, free retries a day.

`limits` decides, by its moving window over hits that are kept in SQLite: they survive restarts and are shared by all
processes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from math import ceil
from typing import Any, cast

import aiosqlite
from limits import RateLimitItem, RateLimitItemPerDay, RateLimitItemPerHour
from limits.aio.storage import Storage
from limits.aio.strategies import MovingWindowRateLimiter

from engine.clock import utc_now
from engine.database.database import Database, Fetch
from engine.database.rows import to_us
from engine.database.sql import QUERIES
from engine.errors import QuotaExceeded, TooManyRefusals
from engine.text import plural

REFUSALS_PER_HOUR = 20
FREE_RETRIES_PER_DAY = 3

_US = 1_000_000

Spend = Callable[[aiosqlite.Connection], Awaitable[None]]
"""Part of a transaction; what it raises rolls the transaction back."""


class SqliteStorage:
    """The part of a `limits` storage that its moving window calls: one row a hit, through `fetch`."""

    def __init__(self, fetch: Fetch, now: Callable[[], datetime]) -> None:
        self._fetch = fetch
        self._now = now

    async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        params = self._params(key, limit, expiry)
        if not list(await self._fetch(QUERIES["hit"], params | {"amount": amount})):
            return False
        await self._fetch(QUERIES["delete_expired_hits"], {"now": params["now"]})
        return True

    async def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        (row,) = await self._fetch(QUERIES["newest_hits"], self._params(key, limit, expiry))
        return (row["oldest"] / _US if row["hits"] else self._now().timestamp()), int(row["hits"])

    def _params(self, key: str, limit: int, expiry: int) -> dict[str, Any]:
        return {"key": key, "limit": limit, "window": expiry * _US, "now": to_us(self._now())}


Storage.register(SqliteStorage)  # `limits` checks the type; its base class wants six methods that nothing calls


class Quota:
    """`per_hour` jobs in any hour for each owner, in the database of the jobs."""

    def __init__(self, database: Database, *, per_hour: int, now: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._now = now
        self._jobs = RateLimitItemPerHour(per_hour, namespace="jobs")
        self._refusals = RateLimitItemPerHour(REFUSALS_PER_HOUR, namespace="refusals")
        self._retries = RateLimitItemPerDay(FREE_RETRIES_PER_DAY, namespace="retries")

    async def check(self, owner: str) -> None:
        """Raise `QuotaExceeded` if the owner could not start a job now."""
        limiter = self._limiter(self._database.read)
        if not await limiter.test(self._jobs, owner):
            raise await self._exceeded(limiter, owner)

    def spend_in(self, owner: str) -> Spend:
        """Return the step that spends one of the owner's jobs, for `JobStore.add(job, limits, also=…)`.

        The step raises `QuotaExceeded`.
        """

        async def spend(writer: aiosqlite.Connection) -> None:
            limiter = self._limiter(writer.execute_fetchall)
            if not await limiter.hit(self._jobs, owner):
                raise await self._exceeded(limiter, owner)

        return spend

    def retry_in(self, owner: str, root_id: str) -> Spend:
        """Return the same for a retry: `FREE_RETRIES_PER_DAY` of each root job cost nothing."""

        async def retry(writer: aiosqlite.Connection) -> None:
            limiter = self._limiter(writer.execute_fetchall)
            if await limiter.hit(self._retries, root_id) or await limiter.hit(self._jobs, owner):
                return
            exceeded = await self._exceeded(limiter, owner)
            raise QuotaExceeded(
                f"This song had its {self._retries.amount} free retries for today, and your jobs for this hour "
                f"are used up. {exceeded.message.partition('. ')[2]}",
                retry_after_s=exceeded.retry_after_s,
            )

        return retry

    async def check_refusals(self, owner: str) -> None:
        """Raise `TooManyRefusals` if too many of the owner's files were expensive to refuse."""
        limiter = self._limiter(self._database.read)
        if not await limiter.test(self._refusals, owner):
            wait_s = await self._wait_s(limiter, self._refusals, owner)
            raise TooManyRefusals(
                f"{plural(self._refusals.amount, 'file')} of yours took very long to check and could not be used. "
                f"Try again in {plural(max(1, ceil(wait_s / 60)), 'minute')}.",
                retry_after_s=wait_s,
            )

    async def note_refusal(self, owner: str) -> None:
        """Count a file that was expensive to refuse."""
        await self._limiter(self._database.run).hit(self._refusals, owner)

    def _limiter(self, fetch: Fetch) -> MovingWindowRateLimiter:
        return MovingWindowRateLimiter(cast(Storage, SqliteStorage(fetch, self._now)))

    async def _wait_s(self, limiter: MovingWindowRateLimiter, item: RateLimitItem, owner: str) -> float:
        reset_time, remaining = await limiter.get_window_stats(item, owner)
        return 0.0 if remaining > 0 else max(0.0, round(reset_time - self._now().timestamp(), 3))

    async def _exceeded(self, limiter: MovingWindowRateLimiter, owner: str) -> QuotaExceeded:
        wait_s = await self._wait_s(limiter, self._jobs, owner)
        free_at = self._now() + timedelta(seconds=wait_s + 59)  # the minute named is never too early
        minutes = max(1, ceil(wait_s / 60))
        return QuotaExceeded(
            f"You have used your {plural(self._jobs.amount, 'job')} for this hour. The next one is free at "
            f"{free_at:%H:%M} UTC (in {plural(minutes, 'minute')}).",
            retry_after_s=wait_s,
        )
