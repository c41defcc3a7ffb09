"""Jobs take legal steps only, through the store and in raw SQL."""

from __future__ import annotations

import sqlite3
from itertools import product

import pytest

from engine.database.job_store import JobStore, ProgressUpdate
from engine.errors import IllegalTransition
from engine.jobs.job import TRANSITIONS, Job, JobStatus, Stage
from tests.fixtures.jobs import add_job, claim_job, pending_job, result_of


async def test_lost_attempt_changes_nothing(store: JobStore) -> None:
    job = await claim_job(store)
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
    job = await claim_job(store)
    done = await store.complete(job.id, 1, result_of(job), 9)
    assert await store.fail(job.id, attempt=None, code="cancelled", message="Cancelled.") is None
    assert await store.fail(job.id, attempt=1, code="x", message="x.") is None
    assert await store.complete(job.id, 1, result_of(job), 10) is None
    assert await store.next_attempt(job.id, 1) is None
    assert not await store.save_progress([ProgressUpdate(job.id, 1, Stage.DECODING, 7)])
    assert await store.get(job.id) == done


async def test_failed_pending_job_is_not_claimed(store: JobStore) -> None:
    job = await add_job(store)
    failed = await store.fail(job.id, attempt=None, code="cancelled", message="Cancelled.")
    assert failed is not None and failed.was_cancelled and failed.error == "Cancelled."
    assert await store.claim() is None


async def test_pending_job_cannot_complete(store: JobStore) -> None:
    job = await add_job(store)
    assert await store.complete(job.id, 0, result_of(job), 9) is None
    assert await store.complete(job.id, 1, result_of(job), 9) is None


async def test_result_of_another_job_is_rejected(store: JobStore) -> None:
    job = await claim_job(store)
    with pytest.raises(ValueError, match="given for"):
        await store.complete(job.id, 1, result_of(pending_job()), 9)


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
    job = await add_job(store)
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
    job = await claim_job(store)
    await store.complete(job.id, 1, result_of(job), 1)
    connection = raw(store)
    try:
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute(f"UPDATE jobs SET {column} = {column} WHERE id = ?", (job.id,))
        connection.execute("UPDATE jobs SET keep = 1 WHERE id = ?", (job.id,))
    finally:
        connection.close()


async def test_raw_sql_cannot_insert_running_or_finished_job(store: JobStore) -> None:
    await add_job(store)
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
    job = await add_job(store)
    with pytest.raises(IllegalTransition):
        await store.database.run("UPDATE jobs SET status = 'completed', result = '{}' WHERE id = :id", {"id": job.id})
