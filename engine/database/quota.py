"""Rate limits of an owner: jobs, repeats, mixes and expensive refusals an hour, free retries a day.

`limits` decides, by its moving window over hits that are kept in SQLite: they survive restarts and are shared by all
processes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil
from typing import Any, cast

import aiosqlite
from limits import RateLimitItem, RateLimitItemPerDay, RateLimitItemPerHour
from limits.aio.storage import Storage
from limits.aio.strategies import MovingWindowRateLimiter

from engine.clock import utc_now
from engine.database.database import Database, Fetch, Step
from engine.database.rows import to_us
from engine.database.sql import QUERIES
from engine.errors import MixesExceeded, QuotaExceeded, TooManyRefusals
from engine.text import plural

REFUSALS_PER_HOUR = 20
GIVEN_BACK_PER_HOUR = 20
REPEATS_PER_HOUR = 60
FREE_RETRIES_PER_DAY = 3
AGAIN_PER_DAY = 20
"""The holder of a job's link may start jobs at the cost of the owner."""

_US = 1_000_000


class SqliteStorage:
    """The part of a `limits` storage that its moving window calls: one row a hit, through `fetch`.

    `job_id`: the job that hits belong to.
    """

    def __init__(self, fetch: Fetch, now: Callable[[], datetime], job_id: str | None = None) -> None:
        self._fetch = fetch
        self._now = now
        self._job_id = job_id

    async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        params = self._params(key, limit, expiry)
        if not list(await self._fetch(QUERIES["hit"], params | {"amount": amount, "job_id": self._job_id})):
            return False
        await self._fetch(QUERIES["delete_expired_hits"], {"now": params["now"]})
        return True

    async def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        (row,) = await self._fetch(QUERIES["newest_hits"], self._params(key, limit, expiry))
        return (row["oldest"] / _US if row["hits"] else self._now().timestamp()), int(row["hits"])

    def _params(self, key: str, limit: int, expiry: int) -> dict[str, Any]:
        return {"key": key, "limit": limit, "window": expiry * _US, "now": to_us(self._now())}


Storage.register(SqliteStorage)  # `limits` checks the type; its base class wants six methods that nothing calls


@dataclass(frozen=True)
class Allowance:
    """What an owner may still start: `left` of `per_hour` jobs, another one in `wait_s` if none is left."""

    per_hour: int
    left: int
    wait_s: float


class Quota:
    """`per_hour` jobs in any hour for each owner, in the database of the jobs.

    `no_limit_for`: owners without a limit begin with this.
    """

    def __init__(
        self,
        database: Database,
        *,
        per_hour: int,
        mixes_per_hour: int = 60,
        now: Callable[[], datetime] = utc_now,
        no_limit_for: str | None = None,
    ) -> None:
        self._database = database
        self._now = now
        self._no_limit_for = no_limit_for
        self._jobs = RateLimitItemPerHour(per_hour, namespace="jobs")
        self._refusals = RateLimitItemPerHour(REFUSALS_PER_HOUR, namespace="refusals")
        self._mixes = RateLimitItemPerHour(mixes_per_hour, namespace="mixes")
        self._again = RateLimitItemPerDay(AGAIN_PER_DAY, namespace="again")
        self._repeats = RateLimitItemPerHour(REPEATS_PER_HOUR, namespace="repeats")
        self._given_back = RateLimitItemPerHour(GIVEN_BACK_PER_HOUR, namespace="given back")
        self._retries = RateLimitItemPerDay(FREE_RETRIES_PER_DAY, namespace="retries")

    async def check(self, owner: str) -> None:
        """Raise `QuotaExceeded` if the owner could not start a job now."""
        limiter = self._limiter(self._database.read)
        if self._is_limited(owner) and not await limiter.test(self._jobs, owner):
            raise await self._exceeded(limiter, owner)

    async def allowance(self, owner: str) -> Allowance | None:
        """Return what the owner may still start; None: there is no limit."""
        if not self._is_limited(owner):
            return None
        limiter = self._limiter(self._database.read)
        left = (await limiter.get_window_stats(self._jobs, owner)).remaining
        return Allowance(self._jobs.amount, left, await self._wait_s(limiter, self._jobs, owner))

    def _is_limited(self, owner: str) -> bool:
        return self._no_limit_for is None or not owner.startswith(self._no_limit_for)

    def spend_in(self, owner: str, job_id: str | None = None) -> Step:
        """Return the step that spends one of the owner's jobs, for `JobStore.add(job, limits, also=…)`.

        The step raises `QuotaExceeded`.
        """

        async def spend(writer: aiosqlite.Connection) -> None:
            limiter = self._limiter(writer.execute_fetchall, job_id)
            if self._is_limited(owner) and not await limiter.hit(self._jobs, owner):
                raise await self._exceeded(limiter, owner)

        return spend

    def spend_again_in(self, owner: str, song_id: str, job_id: str) -> Step:
        """Return the same as `spend_in` for another try of a job, `AGAIN_PER_DAY` times a day for each job."""

        async def spend(writer: aiosqlite.Connection) -> None:
            limiter = self._limiter(writer.execute_fetchall, job_id)
            if not await limiter.hit(self._again, song_id):
                wait_s = await self._wait_s(limiter, self._again, song_id)
                raise QuotaExceeded(
                    f"This song was already separated again {self._again.amount} times today. "
                    f"Try again in {plural(max(1, ceil(wait_s / 3600)), 'hour')}.",
                    retry_after_s=wait_s,
                )
            await self.spend_in(owner, job_id)(writer)

        return spend

    def repeat_in(self, owner: str) -> Step:
        """Return the step that counts a job with the result of an earlier one; it raises `QuotaExceeded`.

        Such a job costs nothing, but it takes up storage, and the holder of a job's link may start it.
        """

        async def repeat(writer: aiosqlite.Connection) -> None:
            limiter = self._limiter(writer.execute_fetchall)
            if self._is_limited(owner) and not await limiter.hit(self._repeats, owner):
                wait_s = await self._wait_s(limiter, self._repeats, owner)
                raise QuotaExceeded(
                    f"{plural(self._repeats.amount, 'song')} of yours were already separated, and you sent them again "
                    f"in the last hour. Try again in {plural(max(1, ceil(wait_s / 60)), 'minute')}.",
                    retry_after_s=wait_s,
                )

        return repeat

    def give_back_in(self, owner: str, job_id: str) -> Step:
        """Return the step that gives back what a job has spent, at most `GIVEN_BACK_PER_HOUR` times an hour.

        The limit keeps songs that cannot be separated from being submitted without end.
        """

        async def give_back(writer: aiosqlite.Connection) -> None:
            if await self._limiter(writer.execute_fetchall).hit(self._given_back, owner):
                await writer.execute_fetchall(QUERIES["give_back_hits"], {"id": job_id})

        return give_back

    def retry_in(self, owner: str, root_id: str, job_id: str | None = None) -> Step:
        """Return the same as `spend_in` for a retry: `FREE_RETRIES_PER_DAY` of each root job cost nothing."""

        async def retry(writer: aiosqlite.Connection) -> None:
            limiter = self._limiter(writer.execute_fetchall, job_id)
            free = self._limiter(writer.execute_fetchall)  # not given back
            if not self._is_limited(owner) or await free.hit(self._retries, root_id):
                return
            if await limiter.hit(self._jobs, owner):
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

    async def spend_mix(self, owner: str) -> None:
        """Count a mix. Raises `MixesExceeded`."""
        limiter = self._limiter(self._database.run)
        if self._is_limited(owner) and not await limiter.hit(self._mixes, owner):
            wait_s = await self._wait_s(limiter, self._mixes, owner)
            raise MixesExceeded(
                f"You have made {plural(self._mixes.amount, 'mix', 'mixes')} in the last hour. "
                f"Try again in {plural(max(1, ceil(wait_s / 60)), 'minute')}.",
                retry_after_s=wait_s,
            )

    def _limiter(self, fetch: Fetch, job_id: str | None = None) -> MovingWindowRateLimiter:
        return MovingWindowRateLimiter(cast(Storage, SqliteStorage(fetch, self._now, job_id)))

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
