"""The hourly quota of an owner: moving window, retry time, several processes."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from engine.database.database import Database
from engine.database.job_store import JobStore
from engine.database.queue_limits import QueueLimits
from engine.database.quota import (
    AGAIN_PER_DAY,
    FREE_RETRIES_PER_DAY,
    GIVEN_BACK_PER_HOUR,
    REFUSALS_PER_HOUR,
    Allowance,
    Quota,
)
from engine.errors import QueueFull, QuotaExceeded, TooManyRefusals
from tests.fixtures.jobs import NO_QUEUE_LIMITS, Clock, pending_job


@pytest.fixture
def clock() -> Clock:
    return Clock(datetime(2026, 11, 23, 13, 0, tzinfo=UTC))


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = await Database.open(tmp_path / "stemify.sqlite3", readers=1)
    yield database
    await database.close()


@pytest.fixture
def quota(database: Database, clock: Clock) -> Quota:
    return Quota(database, per_hour=5, now=clock)


Spend = Callable[..., Awaitable[None]]


@pytest.fixture
def spend(quota: Quota, database: Database) -> Spend:
    """Spend jobs of an owner, each in a transaction."""

    async def spend(times: int = 5, owner: str = "discord:1") -> None:
        for _ in range(times):
            await database.write(quota.spend_in(owner))

    return spend


async def hits(database: Database) -> int:
    return len(await database.read("SELECT id FROM hits"))


async def test_sixth_job_in_an_hour_is_refused_with_retry_time(quota: Quota, spend: Spend, clock: Clock) -> None:
    await spend(2)
    clock.move(minutes=48)
    await spend(3)
    clock.move(seconds=30)
    for attempt in (quota.check("discord:1"), spend(1)):
        with pytest.raises(QuotaExceeded) as refused:
            await attempt
        assert refused.value.retry_after_s == pytest.approx(11 * 60 + 30)
        assert refused.value.message == (
            "You have used your 5 jobs for this hour. The next one is free at 14:00 UTC (in 12 minutes)."
        )


async def test_job_is_accepted_at_named_time(quota: Quota, spend: Spend, clock: Clock) -> None:
    await spend()
    clock.move(minutes=59, seconds=59)
    with pytest.raises(QuotaExceeded, match=r"at 14:00 UTC \(in 1 minute\)"):
        await quota.check("discord:1")
    clock.move(seconds=1)
    await spend(5)


async def test_window_moves_with_time(quota: Quota, spend: Spend, clock: Clock) -> None:
    for _ in range(5):
        await spend(1)
        clock.move(minutes=10)
    with pytest.raises(QuotaExceeded):  # 13:50: all five are younger than an hour
        await spend(1, "discord:1")
    clock.move(minutes=10)
    await spend(1)  # 14:00: the hit of 13:00 no longer counts
    with pytest.raises(QuotaExceeded, match="14:10"):
        await spend(1, "discord:1")


async def test_named_time_is_never_too_early(quota: Quota, spend: Spend, clock: Clock) -> None:
    clock.move(seconds=17)
    await spend()
    with pytest.raises(QuotaExceeded) as refused:
        await spend(1, "discord:1")
    named = re.search(r"at (\d\d):(\d\d) UTC", refused.value.message)
    assert named
    clock.at = clock.at.replace(hour=int(named[1]), minute=int(named[2]), second=0)
    await quota.check("discord:1")


async def test_each_owner_has_own_quota(spend: Spend) -> None:
    await spend(5, "discord:1")
    await spend(5, "discord:11")
    await spend(5, "ip:2001:db8::1")
    await spend(5, "ip:' OR 1=1 --")
    with pytest.raises(QuotaExceeded):
        await spend(1, "discord:1")


async def test_check_spends_nothing(quota: Quota, database: Database) -> None:
    for _ in range(20):
        await quota.check("discord:1")
    assert await hits(database) == 0


async def test_concurrent_jobs_do_not_overrun_the_limit(spend: Spend) -> None:
    outcomes = await asyncio.gather(*(spend(1) for _ in range(50)), return_exceptions=True)
    assert sum(outcome is None for outcome in outcomes) == 5
    assert sum(isinstance(outcome, QuotaExceeded) for outcome in outcomes) == 45


async def test_restart_keeps_quota(spend: Spend, database: Database, tmp_path: Path, clock: Clock) -> None:
    await spend()
    await database.close()
    reopened = await Database.open(tmp_path / "stemify.sqlite3", readers=1)
    with pytest.raises(QuotaExceeded):
        await reopened.write(Quota(reopened, per_hour=5, now=clock).spend_in("discord:1"))
    await reopened.close()


async def test_expensive_refusals_are_limited(quota: Quota, clock: Clock) -> None:
    for _ in range(REFUSALS_PER_HOUR):
        await quota.check_refusals("discord:1")
        await quota.note_refusal("discord:1")
    with pytest.raises(TooManyRefusals, match="Try again in 60 minutes"):
        await quota.check_refusals("discord:1")
    clock.move(hours=1)
    await quota.check_refusals("discord:1")


async def test_clock_in_future_does_not_lock_out_owner(quota: Quota, spend: Spend, clock: Clock) -> None:
    clock.move(days=365)
    await spend()
    clock.move(days=-365)
    await spend()
    with pytest.raises(QuotaExceeded) as refused:
        await spend(1, "discord:1")
    assert refused.value.retry_after_s <= 3600


async def test_hits_outside_the_window_are_deleted(spend: Spend, database: Database, clock: Clock) -> None:
    for number in range(30):
        await spend(1, f"discord:{number}")
    clock.move(hours=2)
    await spend(1, "discord:1")
    assert await hits(database) == 1


async def test_given_back_place_is_free_again(quota: Quota, spend: Spend, database: Database, clock: Clock) -> None:
    await spend(4)
    await database.write(quota.spend_in("discord:1", "failed"))
    assert await quota.allowance("discord:1") == Allowance(per_hour=5, left=0, wait_s=3600)
    await database.write(quota.give_back_in("discord:1", "failed"))
    assert await quota.allowance("discord:1") == Allowance(per_hour=5, left=1, wait_s=0)
    await database.write(quota.give_back_in("discord:1", "failed"))
    assert await quota.allowance("discord:1") == Allowance(per_hour=5, left=1, wait_s=0), "only once"


async def test_places_are_given_back_twenty_times_an_hour(quota: Quota, database: Database) -> None:
    for number in range(GIVEN_BACK_PER_HOUR + 5):
        await database.write(quota.spend_in("discord:1", f"job {number}"))
        await database.write(quota.give_back_in("discord:1", f"job {number}"))
    with pytest.raises(QuotaExceeded):
        await quota.check("discord:1")


async def test_free_retry_is_not_given_back(quota: Quota, spend: Spend, database: Database) -> None:
    await spend()
    for number in range(FREE_RETRIES_PER_DAY):
        await database.write(quota.retry_in("discord:1", "root", f"job {number}"))
    await database.write(quota.give_back_in("discord:1", "job 0"))
    with pytest.raises(QuotaExceeded, match="3 free retries"):
        await database.write(quota.retry_in("discord:1", "root", "job 9"))


async def test_owner_without_limit_spends_nothing(database: Database, clock: Clock) -> None:
    quota = Quota(database, per_hour=1, now=clock, no_limit_for="ip:")
    for _ in range(20):
        await database.write(quota.spend_in("ip:127.0.0.1"))
        await quota.check("ip:127.0.0.1")
    assert await quota.allowance("ip:127.0.0.1") is None and await hits(database) == 0
    await database.write(quota.spend_in("discord:1"))
    with pytest.raises(QuotaExceeded):
        await database.write(quota.spend_in("discord:1"))


async def test_another_try_of_one_job_is_limited(database: Database, clock: Clock) -> None:
    quota = Quota(database, per_hour=100, now=clock)
    for number in range(AGAIN_PER_DAY):
        await database.write(quota.spend_again_in("discord:1", "song", f"job {number}"))
    with pytest.raises(QuotaExceeded, match=r"again 20 times today\. Try again in 24 hours"):
        await database.write(quota.spend_again_in("discord:1", "song", "late"))
    assert await quota.allowance("discord:1") == Allowance(per_hour=100, left=80, wait_s=0)


# Together with the store.


async def test_job_and_quota_are_one_transaction(tmp_path: Path, clock: Clock) -> None:
    store = await JobStore.open(tmp_path / "stemify.sqlite3", now=clock)
    quota = Quota(store.database, per_hour=5, now=clock)
    for _ in range(5):
        await store.add(pending_job("me"), NO_QUEUE_LIMITS, also=quota.spend_in("me"))
    late = pending_job("me")
    with pytest.raises(QuotaExceeded, match="in 60 minutes"):
        await store.add(late, NO_QUEUE_LIMITS, also=quota.spend_in("me"))
    assert await store.get(late.id) is None
    with pytest.raises(QueueFull):
        await store.add(pending_job("you"), QueueLimits(per_owner=1, per_scope=1, total=1), also=quota.spend_in("you"))
    assert await hits(store.database) == 5
    outcomes = await asyncio.gather(
        *(store.add(pending_job("all"), NO_QUEUE_LIMITS, also=quota.spend_in("all")) for _ in range(20)),
        return_exceptions=True,
    )
    assert sum(outcome is None for outcome in outcomes) == 5 == len(await store.list_by_owner("all", limit=100))
    await store.close()


# Over processes.

CHILD = """
import asyncio, sys
from pathlib import Path
from engine.errors import QuotaExceeded
from engine.database.database import Database
from engine.database.quota import Quota

async def main():
    database = await Database.open(Path(sys.argv[1]), readers=1)
    quota = Quota(database, per_hour=10)
    taken = 0
    for _ in range(50):
        try:
            await database.write(quota.spend_in("discord:1"))
        except QuotaExceeded:
            continue
        taken += 1
        print("taken", flush=True)
    if sys.argv[2] == "stay":
        print("done", flush=True)
        await asyncio.sleep(600)
    await database.close()

asyncio.run(main())
"""


def child(path: Path, how: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", CHILD, str(path), how], stdout=subprocess.PIPE, text=True)


async def test_four_processes_share_quota_despite_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "stemify.sqlite3"
    store = await JobStore.open(path)  # the children must not create the file
    children = [child(path, "leave") for _ in range(3)] + [child(path, "stay")]
    try:
        outputs = [(await asyncio.to_thread(process.communicate, timeout=90))[0] for process in children[:3]]
        stays = children[3]
        assert stays.stdout is not None
        lines = []
        while (line := (await asyncio.to_thread(stays.stdout.readline)).strip()) and line != "done":
            lines.append(line)
        stays.kill()  # without closing the database
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
