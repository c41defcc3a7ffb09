"""How many jobs an owner may start in an hour, and the windows beside it: expensive refusals and free retries.

The moving window of `limits`, kept in SQLite, so that a restart forgives nothing and several processes share it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from math import ceil
from pathlib import Path
from typing import Any, Self

import aiosqlite
from limits import RateLimitItem, RateLimitItemPerDay, RateLimitItemPerHour
from limits.aio.storage import MovingWindowSupport, Storage
from limits.aio.strategies import MovingWindowRateLimiter

from engine.database.database import Database
from engine.database.errors import StoreFailed
from engine.database.rows import from_us, to_us, utc_now
from engine.errors import QuotaExceeded, TooManyRefusals
from engine.text import plural

REFUSALS_PER_HOUR = 20
FREE_RETRIES_PER_DAY = 3

_US = 1_000_000
# A hit further in the future than a window was made under a wrong clock, and counts no more.
_IN_WINDOW = "key = :key AND at > :now - :window AND at < :now + :window"
# The test and the hit are one statement: no two callers, nor processes, can both take the last place.
_HIT = f"""
WITH RECURSIVE places (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM places WHERE n < :amount)
INSERT INTO hits (key, at, expires_at)
SELECT :key, :now, :now + :window FROM places
WHERE (SELECT count(*) FROM hits WHERE {_IN_WINDOW}) + :amount <= :limit
RETURNING id
"""  # noqa: S608 - nothing of a user's in it
_WINDOW = f"SELECT count(*) AS hits, min(at) AS oldest FROM hits WHERE {_IN_WINDOW}"  # noqa: S608
_FREE_AT = f"SELECT at + :window AS at FROM hits WHERE {_IN_WINDOW} ORDER BY at DESC LIMIT 1 OFFSET :limit - 1"  # noqa: S608
_FORGET = "DELETE FROM hits WHERE expires_at <= :now"


class SqliteStorage(Storage, MovingWindowSupport):
    """The storage that `limits` lacks: one row a hit. Registered as "async+sqlite://"; the database, which has the
    table, is given as an option. The moving window is what it is for; the counting calls that the base class wants
    answer for the same hits."""

    STORAGE_SCHEME = ["async+sqlite"]  # noqa: RUF012 - declared so by the base class

    def __init__(
        self,
        uri: str | None = None,
        wrap_exceptions: bool = False,
        *,
        database: Database,
        now: Callable[[], datetime] = utc_now,
        **options: float | str | bool,
    ) -> None:
        super().__init__(uri, wrap_exceptions=wrap_exceptions, **options)
        self._database = database
        self._now = now

    @property
    def base_exceptions(self) -> type[Exception]:
        return StoreFailed

    def params(self, key: str, expiry: int, **more: int) -> dict[str, Any]:
        return {"key": key, "now": to_us(self._now()), "window": expiry * _US, **more}

    async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        return bool(await self._database.run(_HIT, self.params(key, expiry, limit=limit, amount=amount)))

    async def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        row = await self._database.read_one(_WINDOW, self.params(key, expiry))
        if row is None or not row["hits"]:
            return self._now().timestamp(), 0
        return row["oldest"] / _US, int(row["hits"])

    async def free_at(self, key: str, limit: int, expiry: int) -> datetime | None:
        """When the next hit will be possible; None: it is now."""
        row = await self._database.read_one(_FREE_AT, self.params(key, expiry, limit=limit))
        return from_us(row["at"]) if row else None

    async def forget_old(self) -> None:
        """Remove the hits that have left their window."""
        await self._database.run(_FORGET, {"now": to_us(self._now())})

    async def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        params = self.params(key, expiry, limit=2**62, amount=amount)
        await self._database.run(_HIT, params)
        return await self.get(key)

    async def get(self, key: str) -> int:
        query = "SELECT count(*) AS hits FROM hits WHERE key = :key AND expires_at > :now"
        row = await self._database.read_one(query, {"key": key, "now": to_us(self._now())})
        return int(row["hits"]) if row else 0

    async def get_expiry(self, key: str) -> float:
        row = await self._database.read_one("SELECT max(expires_at) AS at FROM hits WHERE key = :key", {"key": key})
        return row["at"] / _US if row and row["at"] else self._now().timestamp()

    async def check(self) -> bool:
        await self._database.read("SELECT 1 FROM hits LIMIT 1")
        return True

    async def reset(self) -> int | None:
        return len(await self._database.run("DELETE FROM hits RETURNING id"))

    async def clear(self, key: str) -> None:
        await self._database.run("DELETE FROM hits WHERE key = :key", {"key": key})


class Quota:
    """`per_hour` jobs in any hour, for each owner. Shares the store's database, or has its own connections (`open`)."""

    def __init__(self, database: Database, *, per_hour: int, now: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._now = now
        self._item = RateLimitItemPerHour(per_hour, namespace="jobs")
        self._refusals = RateLimitItemPerHour(REFUSALS_PER_HOUR, namespace="refusals")
        self._retries = RateLimitItemPerDay(FREE_RETRIES_PER_DAY, namespace="retries")
        self._window = SqliteStorage(database=database, now=now)
        self._limiter = MovingWindowRateLimiter(self._window)

    @classmethod
    async def open(cls, path: Path, *, per_hour: int, now: Callable[[], datetime] = utc_now) -> Self:
        """With connections of its own; `close` them."""
        return cls(await Database.open(path, readers=1), per_hour=per_hour, now=now)

    async def close(self) -> None:
        await self._database.close()

    async def check(self, owner: str) -> None:
        """Raises `QuotaExceeded` when the owner could not start a job now. Spends nothing."""
        if not await self._limiter.test(self._item, owner):
            raise await self._exceeded(owner)

    async def spend(self, owner: str) -> None:
        """Take one of the owner's jobs, or raise `QuotaExceeded`; atomic over all processes."""
        if not await self._limiter.hit(self._item, owner):
            raise await self._exceeded(owner)
        await self._window.forget_old()

    async def check_refusals(self, owner: str) -> None:
        """Raises `TooManyRefusals` after too many songs of the owner that were refused at great expense."""
        if not await self._limiter.test(self._refusals, owner):
            wait_s = await self._wait_s(self._refusals, owner)
            raise TooManyRefusals(
                f"{plural(self._refusals.amount, 'file')} of yours took very long to check and could not be used. "
                f"Try again in {plural(max(1, ceil(wait_s / 60)), 'minute')}.",
                retry_after_s=wait_s,
            )

    async def note_refusal(self, owner: str) -> None:
        """Count a song of the owner that was refused at great expense."""
        await self._limiter.hit(self._refusals, owner)

    def spend_in(self, owner: str) -> Callable[[aiosqlite.Connection], Awaitable[None]]:
        """`spend` in the transaction of `JobStore.add(job, caps, also=…)`, for a store that shares this database."""

        async def spend(writer: aiosqlite.Connection) -> None:
            if not await self._hit(writer, self._item, owner):
                raise await self._exceeded(owner)

        return spend

    def retrying(self, owner: str, root_id: str) -> Callable[[aiosqlite.Connection], Awaitable[None]]:
        """As `spending`, for a retry: free a few times a day for each root job, then a job like any other."""

        async def retry(writer: aiosqlite.Connection) -> None:
            if await self._hit(writer, self._retries, root_id) or await self._hit(writer, self._item, owner):
                return
            problem = await self._exceeded(owner)
            raise QuotaExceeded(
                f"This song had its {self._retries.amount} free retries for today, and your jobs for this hour "
                f"are used up. {problem.message.partition('. ')[2]}",
                retry_after_s=problem.retry_after_s,
            )

        return retry

    async def _hit(self, writer: aiosqlite.Connection, item: RateLimitItem, key: str) -> bool:
        params = self._window.params(item.key_for(key), item.get_expiry(), limit=item.amount, amount=1)
        hit = bool(list(await writer.execute_fetchall(_HIT, params)))
        if hit:
            await writer.execute_fetchall(_FORGET, {"now": params["now"]})
        return hit

    async def remaining(self, owner: str) -> int:
        """How many jobs the owner may start now."""
        stats = await self._limiter.get_window_stats(self._item, owner)
        return max(0, stats.remaining)

    async def _wait_s(self, item: RateLimitItem, owner: str) -> float:
        free_at = await self._window.free_at(item.key_for(owner), item.amount, item.get_expiry())
        return max(0.0, (free_at - self._now()).total_seconds()) if free_at else 0.0

    async def _exceeded(self, owner: str) -> QuotaExceeded:
        wait_s = await self._wait_s(self._item, owner)
        clock = self._now() + timedelta(seconds=wait_s) + timedelta(seconds=59)  # never named too early
        minutes = max(1, ceil(wait_s / 60))
        return QuotaExceeded(
            f"You have used your {plural(self._item.amount, 'job')} for this hour. The next one is free at "
            f"{clock:%H:%M} UTC (in {plural(minutes, 'minute')}).",
            retry_after_s=wait_s,
        )
