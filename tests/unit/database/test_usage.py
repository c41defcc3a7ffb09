"""The stored bytes of an owner."""

from __future__ import annotations

import pytest

from engine.database.job_store import JobStore
from engine.database.usage import Usage, forget_files, forget_input
from engine.errors import TooMuchStored
from engine.jobs.job import Job
from tests.fixtures.jobs import NO_QUEUE_LIMITS, Clock, pending_job, result_of

OWNER = "discord:1"


async def claimed(store: JobStore, title: str = "Sunny") -> Job:
    job = pending_job(OWNER, title=title).model_copy(update={"input_size": 600})
    await store.add(job, NO_QUEUE_LIMITS)
    running = await store.claim()
    assert running is not None
    return running


async def completed(store: JobStore, title: str = "Sunny") -> Job:
    job = await claimed(store, title)
    await store.complete(job.id, 1, result_of(job), 3)
    return job


async def test_stored_bytes_follow_job_status(store: JobStore) -> None:
    usage = Usage(store.database, 0)
    job = await claimed(store)
    assert await usage.stored_bytes(OWNER) == 600, "the song"
    await store.complete(job.id, 1, result_of(job), 3)
    assert await usage.stored_bytes(OWNER) == 4600, "the stems and the kept song"
    await forget_input(store.database, job.id)
    assert await usage.stored_bytes(OWNER) == 4000, "the stems"
    await store.delete(job.id)
    assert await usage.stored_bytes(OWNER) == 0


async def test_failed_job_counts_input_and_cancelled_one_nothing(store: JobStore) -> None:
    usage = Usage(store.database, 0)
    failed, cancelled = await claimed(store), await claimed(store)
    await store.fail(failed.id, attempt=1, code="timed_out", message="Too long.")
    await store.fail(cancelled.id, attempt=None, code="cancelled", message="Cancelled.")
    assert await usage.stored_bytes(OWNER) == 600
    await forget_files(store.database, failed.id)
    assert await usage.stored_bytes(OWNER) == 0


async def test_archived_job_still_counts(store: JobStore) -> None:
    job = await completed(store)
    moved = await store.archive_finished(job.status.COMPLETED, Clock()().replace(year=2030))
    assert moved == 1
    assert await Usage(store.database, 0).stored_bytes(OWNER) == 4600


async def test_owner_over_limit_gets_largest_jobs(store: JobStore) -> None:
    await completed(store, "Sunny")
    usage = Usage(store.database, 4600)
    with pytest.raises(TooMuchStored, match=r"Delete jobs .*The largest are: Sunny \(0\.0 MB\)"):
        await usage.check(OWNER)
    await usage.check("discord:2")
    await Usage(store.database, 4601).check(OWNER)
    await Usage(store.database, 0).check(OWNER)


async def test_others_leave_a_fifth_to_the_owner(store: JobStore) -> None:
    await completed(store, "Secret song")  # 4600 bytes
    with pytest.raises(TooMuchStored) as raised:
        await Usage(store.database, 5750).check_for_others(OWNER)
    assert "Secret" not in str(raised.value)
    await Usage(store.database, 5751).check_for_others(OWNER)
    await Usage(store.database, 5750).check(OWNER)
    await Usage(store.database, 0).check_for_others(OWNER)
