"""The job store: accepting, claiming, legal steps, limits."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from itertools import product
from pathlib import Path

import pytest

from engine.database.errors import StoreDamaged
from engine.database.job_store import JobStore, ProgressUpdate
from engine.database.queue_limits import QueueLimits
from engine.errors import AlreadyAccepted, IllegalTransition, QueueFull
from engine.jobs.entity import new_job_id
from engine.jobs.job import TRANSITIONS, Job, JobStatus, Stage
from tests.fixtures.jobs import NO_QUEUE_LIMITS, Clock, pending_job, result_of


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(tmp_path: Path, clock: Clock) -> AsyncIterator[JobStore]:
    store = await JobStore.open(tmp_path / "stemify.sqlite3", now=clock)
    yield store
    await store.close()


async def accepted(store: JobStore, job: Job | None = None) -> Job:
    job = job or pending_job()
    await store.add(job, NO_QUEUE_LIMITS)
    return job


async def claimed(store: JobStore) -> Job:
    await accepted(store)
    job = await store.claim()
    assert job is not None
    return job


async def test_get_returns_accepted_job(store: JobStore) -> None:
    job = await accepted(
        store, pending_job(scope="discord:7", title="Ünïcode – 日本 \N{PILE OF POO} '); DROP TABLE jobs;--")
    )
    assert await store.get(job.id) == job
    assert await store.list_by_owner(job.owner, limit=5) == [job]


async def test_get_returns_none_for_unknown_id(store: JobStore) -> None:
    for job_id in (new_job_id(), "", "nonsense", "../x", "ffffffff-ffff-7fff-bfff-ffffffffffff", "a\0b"):
        assert await store.get(job_id) is None
        assert await store.standing(job_id) is None


async def test_job_goes_from_pending_to_completed(store: JobStore, clock: Clock) -> None:
    job = await accepted(store)
    clock.move(seconds=5)
    running = await store.claim()
    assert running is not None
    assert (running.id, running.status, running.attempt, running.updated_at) == (job.id, "processing", 1, clock())
    assert await store.save_progress([ProgressUpdate(job.id, 1, Stage.SEPARATING, 40)])
    clock.move(seconds=20)
    done = await store.complete(job.id, 1, result_of(job), 25)
    assert done is not None and done == await store.get(job.id)
    assert (done.status, done.progress, done.stage, done.actual_duration) == ("completed", 100, None, 25)
    assert done.result == result_of(job)
    assert done.updated_at == clock()


async def test_known_id_is_rejected(store: JobStore) -> None:
    job = await accepted(store)
    with pytest.raises(AlreadyAccepted):
        await store.add(job, NO_QUEUE_LIMITS)
    assert (await store.counts())[JobStatus.PENDING] == 1


async def test_add_rejects_job_that_is_not_pending(store: JobStore) -> None:
    over = pending_job().model_copy(update={"status": JobStatus.FAILED, "error": "no"})
    with pytest.raises(IllegalTransition):
        await store.add(over, NO_QUEUE_LIMITS)


async def test_claim_returns_none_for_empty_queue(store: JobStore) -> None:
    assert await store.claim() is None
    await claimed(store)
    assert await store.claim() is None


async def test_concurrent_claims_never_give_the_same_job(store: JobStore) -> None:
    for number in range(30):
        await accepted(store, pending_job(f"discord:{number % 7}"))
    jobs = await asyncio.gather(*(store.claim() for _ in range(40)))
    ids = [job.id for job in jobs if job]
    assert len(ids) == len(set(ids)) == 30


# Attempts are fenced.


async def test_lost_attempt_changes_nothing(store: JobStore) -> None:
    job = await claimed(store)
    second = await store.next_attempt(job.id, 1)
    assert second is not None and (second.attempt, second.status) == (2, "processing")
    assert await store.next_attempt(job.id, 1) is None
    assert not await store.save_progress([ProgressUpdate(job.id, 1, Stage.ENCODING, 95)])
    assert not await store.set_input(job.id, 1, title="x", artist=None, input_size=1, input_duration=1)
    assert await store.complete(job.id, 1, result_of(job), 9) is None
    assert await store.fail(job.id, attempt=1, code="x", message="x.") is None
    assert await store.get(job.id) == second
    assert await store.complete(job.id, 2, result_of(job, 2), 9) is not None


async def test_finished_job_does_not_change(store: JobStore) -> None:
    job = await claimed(store)
    done = await store.complete(job.id, 1, result_of(job), 9)
    assert await store.fail(job.id, attempt=None, code="cancelled", message="Cancelled.") is None
    assert await store.fail(job.id, attempt=1, code="x", message="x.") is None
    assert await store.complete(job.id, 1, result_of(job), 10) is None
    assert await store.next_attempt(job.id, 1) is None
    assert not await store.save_progress([ProgressUpdate(job.id, 1, Stage.DECODING, 7)])
    assert await store.get(job.id) == done


async def test_failed_pending_job_is_not_claimed(store: JobStore) -> None:
    job = await accepted(store)
    failed = await store.fail(job.id, attempt=None, code="cancelled", message="Cancelled.")
    assert failed is not None and failed.was_cancelled and failed.error == "Cancelled."
    assert await store.claim() is None


async def test_pending_job_cannot_complete(store: JobStore) -> None:
    job = await accepted(store)
    assert await store.complete(job.id, 0, result_of(job), 9) is None
    assert await store.complete(job.id, 1, result_of(job), 9) is None


async def test_result_of_another_job_is_rejected(store: JobStore) -> None:
    job = await claimed(store)
    with pytest.raises(ValueError, match="given for"):
        await store.complete(job.id, 1, result_of(pending_job()), 9)


async def test_progress_never_decreases(store: JobStore) -> None:
    job = await claimed(store)
    assert await store.save_progress([ProgressUpdate(job.id, 1, Stage.SEPARATING, 60)])
    assert await store.save_progress([ProgressUpdate(job.id, 1, Stage.SEPARATING, 30)])
    again = await store.next_attempt(job.id, 1)
    assert again is not None and (again.progress, again.stage) == (60, None)
    assert await store.save_progress([ProgressUpdate(job.id, 2, Stage.DECODING, 5)])
    now = await store.get(job.id)
    assert now is not None and (now.progress, now.stage) == (60, "decoding")
    await store.save_progress([ProgressUpdate(job.id, 2, Stage.PUBLISHING, 250)])
    now = await store.get(job.id)
    assert now is not None and now.progress == 99  # 100 is for completed jobs


async def test_progress_is_saved_in_bulk_without_lost_attempts(store: JobStore) -> None:
    jobs = [await claimed(store) for _ in range(4)]
    assert await store.next_attempt(jobs[1].id, 1) is not None
    await store.fail(jobs[2].id, attempt=1, code="x", message="x.")
    saved = await store.save_progress([ProgressUpdate(job.id, 1, Stage.ENCODING, 20 + n) for n, job in enumerate(jobs)])
    assert saved == {jobs[0].id, jobs[3].id}
    found = [await store.get(job.id) for job in jobs]
    assert [job.progress for job in found if job is not None] == [20, 0, 0, 23]
    assert await store.save_progress([]) == set()


async def test_clock_jump_does_not_decrease_updated_at(store: JobStore, clock: Clock) -> None:
    job = await claimed(store)
    clock.move(days=-400)
    await store.save_progress([ProgressUpdate(job.id, 1, Stage.DECODING, 5)])
    failed = await store.fail(job.id, attempt=1, code="x", message="x.")
    assert failed is not None and failed.created_at <= failed.updated_at


async def test_set_input_stores_metadata_of_link(store: JobStore) -> None:
    job = await claimed(store)
    assert await store.set_input(job.id, 1, title="Song", artist="Band", input_size=9, input_duration=3.5)
    found = await store.get(job.id)
    assert found is not None
    assert (found.title, found.artist, found.input_size, found.input_duration) == ("Song", "Band", 9, 3.5)
    assert found.input_source == job.input_source


async def test_processing_lists_jobs_of_last_process(store: JobStore, tmp_path: Path) -> None:
    first, _ = await claimed(store), await claimed(store)
    await accepted(store)
    await store.close()
    again = await JobStore.open(tmp_path / "stemify.sqlite3")
    assert [job.id for job in await again.processing()] == sorted(job.id for job in await again.processing())
    assert first.id in {job.id for job in await again.processing()}
    assert (await again.counts())[JobStatus.PROCESSING] == 2
    await again.close()


# Raw SQL has the same rules.


def raw(store: JobStore) -> sqlite3.Connection:
    return sqlite3.connect(store.database.path, isolation_level=None)


SET = {
    JobStatus.PENDING: "status = 'pending', result = NULL, error = NULL",
    JobStatus.PROCESSING: "status = 'processing', result = NULL, error = NULL",
    JobStatus.COMPLETED: "status = 'completed', result = '{}', error = NULL",
    JobStatus.FAILED: "status = 'failed', result = NULL, error = 'no'",
}


@pytest.mark.parametrize(("before", "after"), list(product(JobStatus, JobStatus)))
async def test_raw_sql_cannot_take_illegal_step(store: JobStore, before: JobStatus, after: JobStatus) -> None:
    job = await accepted(store)
    if before is not JobStatus.PENDING:
        await store.claim()
    if before is JobStatus.COMPLETED:
        await store.complete(job.id, 1, result_of(job), 1)
    if before is JobStatus.FAILED:
        await store.fail(job.id, attempt=1, code="x", message="x.")
    is_legal = after in TRANSITIONS[before] or (before == after and TRANSITIONS[before])
    connection = raw(store)
    try:
        if is_legal:
            connection.execute(f"UPDATE jobs SET {SET[after]} WHERE id = ?", (job.id,))
        else:
            with pytest.raises(sqlite3.IntegrityError, match="illegal transition"):
                connection.execute(f"UPDATE jobs SET {SET[after]} WHERE id = ?", (job.id,))
    finally:
        connection.close()


@pytest.mark.parametrize("column", [name for name in Job.model_fields if name not in ("keep", "status")])
async def test_only_keep_of_completed_job_can_change(store: JobStore, column: str) -> None:
    job = await claimed(store)
    await store.complete(job.id, 1, result_of(job), 1)
    connection = raw(store)
    try:
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute(f"UPDATE jobs SET {column} = {column} WHERE id = ?", (job.id,))
        connection.execute("UPDATE jobs SET keep = 1 WHERE id = ?", (job.id,))
    finally:
        connection.close()


async def test_raw_sql_cannot_insert_running_or_finished_job(store: JobStore) -> None:
    await accepted(store)
    connection = raw(store)
    try:
        with pytest.raises(sqlite3.IntegrityError, match="begins as pending"):
            connection.execute(
                "INSERT INTO jobs SELECT 'x', 'processing', created_at, updated_at, input_type, input_source, model,"
                " options, progress, result, error, estimated_duration, actual_duration, owner, scope, place, title,"
                " artist, input_size, input_duration, attempt, stage, error_code, retry_of, keep FROM jobs"
            )
    finally:
        connection.close()


async def test_illegal_transition_in_store_raises_stemify_error(store: JobStore) -> None:
    job = await accepted(store)
    with pytest.raises(IllegalTransition):
        await store.database.run("UPDATE jobs SET status = 'completed', result = '{}' WHERE id = :id", {"id": job.id})


# Queue limits.


async def test_full_queue_raises_with_retry_time(store: JobStore) -> None:
    limits = QueueLimits(per_owner=2, per_scope=3, total=5)
    await store.add(pending_job("a", scope="s", estimated_duration=120), limits)
    await store.add(pending_job("a", scope="s", estimated_duration=240), limits)
    with pytest.raises(QueueFull, match="You already have 2 jobs") as refused:
        await store.add(pending_job("a", scope="t"), limits)
    assert refused.value.retry_after_s == 120
    assert "2 minutes" in refused.value.message
    await store.add(pending_job("b", scope="s"), limits)
    with pytest.raises(QueueFull, match="3 jobs in the queue from here"):
        await store.add(pending_job("c", scope="s"), limits)
    await store.add(pending_job("c"), limits)
    await store.add(pending_job("c"), limits)
    with pytest.raises(QueueFull, match="queue is full, with 5 jobs"):
        await store.add(pending_job("d"), limits)
    assert (await store.counts())[JobStatus.PENDING] == 5


async def test_caps_count_running_but_not_finished_jobs(store: JobStore) -> None:
    limits = QueueLimits(per_owner=1, per_scope=1, total=1)
    await store.add(pending_job("a", scope="s"), limits)
    job = await store.claim()
    assert job is not None
    for late in (pending_job("a", scope="x"), pending_job("b", scope="s"), pending_job("c")):
        with pytest.raises(QueueFull):
            await store.add(late, limits)
    await store.fail(job.id, attempt=1, code="x", message="x.")
    await store.add(pending_job("a", scope="s"), limits)


async def test_caps_hold_when_many_submit_at_once(store: JobStore) -> None:
    limits = QueueLimits(per_owner=10, per_scope=50, total=1000)
    outcomes = await asyncio.gather(*(store.add(pending_job("a"), limits) for _ in range(40)), return_exceptions=True)
    assert sum(outcome is None for outcome in outcomes) == 10
    assert sum(isinstance(outcome, QueueFull) for outcome in outcomes) == 30


async def test_submission_refused_late_is_not_stored(store: JobStore) -> None:
    async def refuse(_writer: object) -> None:
        raise QueueFull(retry_after_s=1)

    job = pending_job()
    with pytest.raises(QueueFull):
        await store.add(job, NO_QUEUE_LIMITS, also=refuse)
    assert await store.get(job.id) is None
    assert (await store.counts())[JobStatus.PENDING] == 0


# The rest.


async def test_list_contains_owners_jobs_newest_first(store: JobStore) -> None:
    mine = [await accepted(store, pending_job("me")) for _ in range(5)]
    await accepted(store, pending_job("you"))
    first = await store.claim()
    assert first is not None
    await store.fail(mine[0].id, attempt=None, code="x", message="x.")
    newest_first = [job.id for job in reversed(mine)]
    assert [job.id for job in await store.list_by_owner("me", limit=25)] == newest_first
    assert [job.id for job in await store.list_by_owner("me", limit=2)] == newest_first[:2]
    assert [job.id for job in await store.list_by_owner("me", limit=25, active_only=True)] == newest_first[:4]
    assert await store.list_by_owner("nobody", limit=25) == []


async def test_deleted_job_queues_its_files_for_removal(store: JobStore) -> None:
    job = await accepted(store)
    assert await store.delete(job.id)
    assert await store.get(job.id) is None
    assert await store.deletions() == [job.id]
    assert not await store.delete(job.id)
    await store.forget_deletion(job.id)
    assert await store.deletions() == []
    assert sum((await store.counts()).values()) == 0


async def test_keep_can_be_set_and_cleared(store: JobStore) -> None:
    job = await claimed(store)
    await store.complete(job.id, 1, result_of(job), 1)
    kept = await store.keep(job.id, True)
    assert kept is not None and kept.keep and kept == await store.get(job.id)
    loose = await store.keep(job.id, False)
    assert loose is not None and not loose.keep
    assert await store.keep(new_job_id(), True) is None


async def test_speed_is_a_moving_average(store: JobStore) -> None:
    assert await store.speeds.get("htdemucs", "fast", "cpu") is None
    await store.speeds.learn("htdemucs", "fast", "cpu", processing_s=50, audio_s=100)
    assert await store.speeds.get("htdemucs", "fast", "cpu") == pytest.approx(0.5)
    await store.speeds.learn("htdemucs", "fast", "cpu", processing_s=150, audio_s=100)
    assert await store.speeds.get("htdemucs", "fast", "cpu") == pytest.approx(0.8)
    await store.speeds.learn("htdemucs", "fast", "cpu", processing_s=0, audio_s=100)
    await store.speeds.learn("htdemucs", "fast", "cpu", processing_s=1, audio_s=0)
    assert await store.speeds.get("htdemucs", "fast", "cpu") == pytest.approx(0.8)
    assert await store.speeds.get("htdemucs", "fast", "cuda:0") is None


async def test_damaged_row_does_not_hide_others(store: JobStore) -> None:
    bad, good = await accepted(store, pending_job("me")), await accepted(store, pending_job("me"))
    await store.database.run("UPDATE jobs SET options = '{' WHERE id = :id", {"id": bad.id})
    with pytest.raises(StoreDamaged):
        await store.get(bad.id)
    assert await store.list_by_owner("me", limit=5) == [good]


async def test_skipped_rows_of_a_list_are_not_parsed(store: JobStore, caplog: pytest.LogCaptureFixture) -> None:
    good, bad = await accepted(store, pending_job("me")), await accepted(store, pending_job("me"))
    await store.database.run("UPDATE jobs SET options = '{' WHERE id = :id", {"id": bad.id})
    assert await store.list_by_owner("me", limit=5, offset=1) == [good]
    assert caplog.records == []


async def test_idle_owners_lose_only_their_turn(store: JobStore) -> None:
    await claimed(store)
    await store.fail((await store.list_by_owner("discord:1", limit=1))[0].id, attempt=1, code="x", message="x.")
    await store.forget_idle_owners()
    assert len(await store.database.read("SELECT * FROM owners")) == 1
    await store.database.run("UPDATE turns SET last = last + 2000")
    await accepted(store, pending_job("waits"))
    await store.forget_idle_owners()
    assert [row["owner"] for row in await store.database.read("SELECT owner FROM owners")] == ["waits"]
