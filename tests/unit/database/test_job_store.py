"""The job store: add, claim, list, change and delete jobs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from engine.database.errors import StoreDamaged
from engine.database.job_store import JobStore, ProgressUpdate
from engine.errors import AlreadyAccepted, IllegalTransition
from engine.jobs.entity import new_job_id
from engine.jobs.job import JobStatus, Stage
from tests.fixtures.jobs import NO_QUEUE_LIMITS, Clock, add_job, claim_job, pending_job, result_of


async def test_get_returns_accepted_job(store: JobStore) -> None:
    job = await add_job(
        store, pending_job(scope="discord:7", title="Ünïcode – 日本 \N{PILE OF POO} '); DROP TABLE jobs;--")
    )
    assert await store.get(job.id) == job
    assert await store.list_by_owner(job.owner, limit=5) == [job]


async def test_get_returns_none_for_unknown_id(store: JobStore) -> None:
    for job_id in (new_job_id(), "", "nonsense", "../x", "ffffffff-ffff-7fff-bfff-ffffffffffff", "a\0b"):
        assert await store.get(job_id) is None
        assert await store.standing(job_id) is None


async def test_job_goes_from_pending_to_completed(store: JobStore, clock: Clock) -> None:
    job = await add_job(store)
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
    job = await add_job(store)
    with pytest.raises(AlreadyAccepted):
        await store.add(job, NO_QUEUE_LIMITS)
    assert (await store.counts())[JobStatus.PENDING] == 1


async def test_add_rejects_job_that_is_not_pending(store: JobStore) -> None:
    over = pending_job().model_copy(update={"status": JobStatus.FAILED, "error": "no"})
    with pytest.raises(IllegalTransition):
        await store.add(over, NO_QUEUE_LIMITS)


async def test_claim_returns_none_for_empty_queue(store: JobStore) -> None:
    assert await store.claim() is None
    await claim_job(store)
    assert await store.claim() is None


async def test_concurrent_claims_never_give_the_same_job(store: JobStore) -> None:
    for number in range(30):
        await add_job(store, pending_job(f"discord:{number % 7}"))
    jobs = await asyncio.gather(*(store.claim() for _ in range(40)))
    ids = [job.id for job in jobs if job]
    assert len(ids) == len(set(ids)) == 30


async def test_progress_never_decreases(store: JobStore) -> None:
    job = await claim_job(store)
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
    jobs = [await claim_job(store) for _ in range(4)]
    assert await store.next_attempt(jobs[1].id, 1) is not None
    await store.fail(jobs[2].id, attempt=1, code="x", message="x.")
    saved = await store.save_progress([ProgressUpdate(job.id, 1, Stage.ENCODING, 20 + n) for n, job in enumerate(jobs)])
    assert saved == {jobs[0].id, jobs[3].id}
    found = [await store.get(job.id) for job in jobs]
    assert [job.progress for job in found if job is not None] == [20, 0, 0, 23]
    assert await store.save_progress([]) == set()


async def test_clock_jump_does_not_decrease_updated_at(store: JobStore, clock: Clock) -> None:
    job = await claim_job(store)
    clock.move(days=-400)
    await store.save_progress([ProgressUpdate(job.id, 1, Stage.DECODING, 5)])
    failed = await store.fail(job.id, attempt=1, code="x", message="x.")
    assert failed is not None and failed.created_at <= failed.updated_at


async def test_set_input_stores_metadata_of_link(store: JobStore) -> None:
    job = await claim_job(store)
    assert await store.set_input(job.id, 1, title="Song", artist="Band", input_size=9, input_duration=3.5)
    found = await store.get(job.id)
    assert found is not None
    assert (found.title, found.artist, found.input_size, found.input_duration) == ("Song", "Band", 9, 3.5)
    assert found.input_source == job.input_source


async def test_processing_lists_jobs_of_last_process(store: JobStore, tmp_path: Path) -> None:
    first, _ = await claim_job(store), await claim_job(store)
    await add_job(store)
    await store.close()
    again = await JobStore.open(tmp_path / "stemify.sqlite3")
    assert [job.id for job in await again.processing()] == sorted(job.id for job in await again.processing())
    assert first.id in {job.id for job in await again.processing()}
    assert (await again.counts())[JobStatus.PROCESSING] == 2
    await again.close()


async def test_list_contains_owners_jobs_newest_first(store: JobStore) -> None:
    mine = [await add_job(store, pending_job("me")) for _ in range(5)]
    await add_job(store, pending_job("you"))
    first = await store.claim()
    assert first is not None
    await store.fail(mine[0].id, attempt=None, code="x", message="x.")
    newest_first = [job.id for job in reversed(mine)]
    assert [job.id for job in await store.list_by_owner("me", limit=25)] == newest_first
    assert [job.id for job in await store.list_by_owner("me", limit=2)] == newest_first[:2]
    assert [job.id for job in await store.list_by_owner("me", limit=25, active_only=True)] == newest_first[:4]
    assert await store.list_by_owner("nobody", limit=25) == []


async def test_deleted_job_queues_its_files_for_removal(store: JobStore) -> None:
    job = await add_job(store)
    assert await store.delete(job.id)
    assert await store.get(job.id) is None
    assert await store.deletions() == [job.id]
    assert not await store.delete(job.id)
    await store.forget_deletion(job.id)
    assert await store.deletions() == []
    assert sum((await store.counts()).values()) == 0


async def test_keep_can_be_set_and_cleared(store: JobStore) -> None:
    job = await claim_job(store)
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
    bad, good = await add_job(store, pending_job("me")), await add_job(store, pending_job("me"))
    await store.database.run("UPDATE jobs SET options = '{' WHERE id = :id", {"id": bad.id})
    with pytest.raises(StoreDamaged):
        await store.get(bad.id)
    assert await store.list_by_owner("me", limit=5) == [good]


async def test_skipped_rows_of_a_list_are_not_parsed(store: JobStore, caplog: pytest.LogCaptureFixture) -> None:
    good, bad = await add_job(store, pending_job("me")), await add_job(store, pending_job("me"))
    await store.database.run("UPDATE jobs SET options = '{' WHERE id = :id", {"id": bad.id})
    assert await store.list_by_owner("me", limit=5, offset=1) == [good]
    assert caplog.records == []


async def test_idle_owners_lose_only_their_turn(store: JobStore) -> None:
    await claim_job(store)
    await store.fail((await store.list_by_owner("discord:1", limit=1))[0].id, attempt=1, code="x", message="x.")
    await store.forget_idle_owners()
    assert len(await store.database.read("SELECT * FROM owners")) == 1
    await store.database.run("UPDATE turns SET last = last + 2000")
    await add_job(store, pending_job("waits"))
    await store.forget_idle_owners()
    assert [row["owner"] for row in await store.database.read("SELECT owner FROM owners")] == ["waits"]
