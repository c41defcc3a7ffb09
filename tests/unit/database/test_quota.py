"""Five jobs in any hour: counted once, over all processes, through restarts, and told when to come back."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from limits import RateLimitItemPerMinute
from limits.aio.strategies import MovingWindowRateLimiter
from limits.storage import storage_from_string

from engine.database.job_store import JobStore
from engine.database.queue_limits import Caps
from engine.database.quota import Quota, SqliteStorage
from engine.errors import QueueFull, QuotaExceeded
from tests.fixtures.jobs import NO_CAPS, Clock, pending_job


@pytest.fixture
def clock() -> Clock:
    return Clock(datetime(2026, 11, 23, 13, 0, tzinfo=UTC))


@pytest.fixture
async def quota(tmp_path: Path, clock: Clock) -> AsyncIterator[Quota]:
    quota = await Quota.open(tmp_path / "stemify.sqlite3", per_hour=5, now=clock)
    yield quota
    await quota.close()


async def spend(quota: Quota, times: int = 5, owner: str = "discord:1") -> None:
    for _ in range(times):
        await quota.check(owner)
        await quota.spend(owner)


async def test_sixth_job_in_an_hour_is_refused_with_retry_time(quota: Quota, clock: Clock) -> None:
    await spend(quota, 2)
    clock.move(minutes=48)
    await spend(quota, 3)
    clock.move(seconds=30)
    for refuse in (quota.check, quota.spend):
        with pytest.raises(QuotaExceeded) as refused:
            await refuse("discord:1")
        assert refused.value.retry_after_s == pytest.approx(11 * 60 + 30)
        assert refused.value.message == (
            "You have used your 5 jobs for this hour. The next one is free at 14:00 UTC (in 12 minutes)."
        )
    assert await quota.remaining("discord:1") == 0


async def test_the_time_that_was_named_is_kept(quota: Quota, clock: Clock) -> None:
    await spend(quota)
    clock.move(minutes=59, seconds=59)
    with pytest.raises(QuotaExceeded, match=r"at 14:00 UTC \(in 1 minute\)"):
        await quota.check("discord:1")
    clock.move(seconds=1)
    await spend(quota, 5)


async def test_the_window_moves_and_does_not_restart(quota: Quota, clock: Clock) -> None:
    for _ in range(5):
        await spend(quota, 1)
        clock.move(minutes=10)
    with pytest.raises(QuotaExceeded):  # 13:50: all five are younger than an hour
        await quota.spend("discord:1")
    clock.move(minutes=10)
    await spend(quota, 1)  # 14:00: the one of 13:00 has left
    with pytest.raises(QuotaExceeded, match="14:10"):
        await quota.spend("discord:1")


async def test_a_named_time_is_never_too_early(quota: Quota, clock: Clock) -> None:
    clock.move(seconds=17)
    await spend(quota)
    with pytest.raises(QuotaExceeded) as refused:
        await quota.spend("discord:1")
    named = re.search(r"at (\d\d):(\d\d) UTC", refused.value.message)
    assert named
    clock.at = clock.at.replace(hour=int(named[1]), minute=int(named[2]), second=0)
    await quota.check("discord:1")


async def test_each_owner_has_their_own(quota: Quota) -> None:
    await spend(quota, 5, "discord:1")
    await spend(quota, 5, "discord:11")
    await spend(quota, 5, "ip:2001:db8::1")
    await spend(quota, 5, "ip:' OR 1=1 --")
    with pytest.raises(QuotaExceeded):
        await quota.spend("discord:1")


async def test_a_check_spends_nothing(quota: Quota) -> None:
    for _ in range(20):
        await quota.check("discord:1")
    assert await quota.remaining("discord:1") == 5


async def test_concurrent_jobs_do_not_overrun_the_limit(quota: Quota) -> None:
    outcomes = await asyncio.gather(*(quota.spend("discord:1") for _ in range(50)), return_exceptions=True)
    assert sum(outcome is None for outcome in outcomes) == 5
    assert sum(isinstance(outcome, QuotaExceeded) for outcome in outcomes) == 45


async def test_a_restart_forgives_nothing(quota: Quota, tmp_path: Path, clock: Clock) -> None:
    await spend(quota)
    await quota.close()
    again = await Quota.open(tmp_path / "stemify.sqlite3", per_hour=5, now=clock)
    with pytest.raises(QuotaExceeded):
        await again.spend("discord:1")
    await again.close()


async def test_a_clock_that_was_wrong_locks_nobody_out_for_long(quota: Quota, clock: Clock) -> None:
    clock.move(days=365)
    await spend(quota)
    clock.move(days=-365)
    await spend(quota)
    with pytest.raises(QuotaExceeded) as refused:
        await quota.spend("discord:1")
    assert refused.value.retry_after_s <= 3600


async def test_hits_that_have_left_the_window_are_not_kept(quota: Quota, clock: Clock, tmp_path: Path) -> None:
    for number in range(30):
        await quota.spend(f"discord:{number}")
    clock.move(hours=2)
    await quota.spend("discord:1")
    store = await JobStore.open(tmp_path / "stemify.sqlite3")
    assert len(await store.database.read("SELECT * FROM hits")) == 1
    await store.close()


# Together with the store.


async def test_a_job_is_stored_and_paid_for_or_neither(tmp_path: Path, clock: Clock) -> None:
    store = await JobStore.open(tmp_path / "stemify.sqlite3", now=clock)
    quota = Quota(store.database, per_hour=5, now=clock)
    for _ in range(5):
        await store.add(pending_job("me"), NO_CAPS, also=quota.spend_in("me"))
    late = pending_job("me")
    with pytest.raises(QuotaExceeded, match="in 60 minutes"):
        await store.add(late, NO_CAPS, also=quota.spend_in("me"))
    assert await store.get(late.id) is None
    with pytest.raises(QueueFull):
        await store.add(pending_job("you"), Caps(per_owner=1, per_scope=1, total=1), also=quota.spend_in("you"))
    assert await quota.remaining("you") == 5
    outcomes = await asyncio.gather(
        *(store.add(pending_job("all"), NO_CAPS, also=quota.spend_in("all")) for _ in range(20)), return_exceptions=True
    )
    assert sum(outcome is None for outcome in outcomes) == 5 == len(await store.list_by_owner("all", limit=100))
    await store.close()


# As a storage of `limits`.


async def test_limits_finds_the_storage_by_its_scheme(tmp_path: Path, clock: Clock) -> None:
    store = await JobStore.open(tmp_path / "stemify.sqlite3", now=clock)
    window = storage_from_string("async+sqlite://", database=store.database, now=clock)  # type: ignore[arg-type]
    assert isinstance(window, SqliteStorage)
    assert await window.check()
    limiter, item = MovingWindowRateLimiter(window), RateLimitItemPerMinute(10)
    assert await limiter.hit(item, "a", cost=7)
    assert not await limiter.test(item, "a", cost=4)
    assert not await limiter.hit(item, "a", cost=4)
    assert await limiter.hit(item, "a", cost=3)
    stats = await limiter.get_window_stats(item, "a")
    assert (stats.remaining, stats.reset_time) == (0, clock().timestamp() + 60)
    key = item.key_for("a")
    assert await window.get(key) == 10
    assert await window.get_expiry(key) == clock().timestamp() + 60
    assert await window.incr(key, 60) == 11
    await limiter.clear(item, "a")
    assert await limiter.test(item, "a", cost=10)
    await limiter.hit(item, "b")
    assert await window.reset() == 1
    await store.close()


# Over processes.

CHILD = """
import asyncio, sys
from pathlib import Path
from engine.errors import QuotaExceeded
from engine.database.quota import Quota

async def main():
    quota = await Quota.open(Path(sys.argv[1]), per_hour=10)
    taken = 0
    for _ in range(50):
        try:
            await quota.spend("discord:1")
        except QuotaExceeded:
            continue
        taken += 1
        print("taken", flush=True)
    if sys.argv[2] == "stay":
        print("done", flush=True)
        await asyncio.sleep(600)
    await quota.close()

asyncio.run(main())
"""


def child(path: Path, how: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", CHILD, str(path), how], stdout=subprocess.PIPE, text=True)


async def test_four_processes_share_quota_despite_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "stemify.sqlite3"
    store = await JobStore.open(path)  # so that the children only count, and do not also make the file
    children = [child(path, "leave") for _ in range(3)] + [child(path, "stay")]
    try:
        outputs = [(await asyncio.to_thread(process.communicate, timeout=90))[0] for process in children[:3]]
        stays = children[3]
        assert stays.stdout is not None
        lines = []
        while (line := (await asyncio.to_thread(stays.stdout.readline)).strip()) and line != "done":
            lines.append(line)
        stays.kill()  # without closing anything
        await asyncio.to_thread(stays.wait, 30)
        assert sum(output.split().count("taken") for output in outputs) + lines.count("taken") == 10
        after = await asyncio.to_thread(child(path, "leave").communicate, timeout=90)
        assert after[0] == ""
    finally:
        for process in children:
            if process.poll() is None:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()
        await store.close()
