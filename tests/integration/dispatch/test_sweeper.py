"""Everything is kept for its time and not longer, and nothing that is not a job's is ever touched."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from config.settings import load
from engine.backend import backend
from engine.dispatch.sweeper import Sweeper
from engine.errors import StorageFailed
from engine.jobs.entity import new_job_id
from tests.fixtures.jobs import START, Clock, result_of
from tests.fixtures.sweep_case import RETENTION, SweepCase

DECOYS = (
    "models/hub/weights.th",
    "models/01a205ec-fe8d-724b-8237-ca688e1702d8/weights.th",
    "keys/links.key",
    "bot.sqlite3",
    "archive/notes.txt",
    "jobs/readme.txt",
    "jobs/my-songs/song.mp3",
    "jobs/00000000000000000000000000000000/song.mp3",
    f"jobs/{uuid4()}/song.mp3",  # an id, but not a UUIDv7
    "jobs/01a205ec-fe8d-724b-8237-ca688e1702d8.bak/input",
    "scratch/mine/file",
    "scratch/01a205ec-fe8d-724b-8237-ca688e1702d8/file",
    "01a205ec-fe8d-724b-8237-ca688e1702d8/input",
)


async def test_completed_rows_stay_30_days_and_stems_90(case: SweepCase) -> None:
    job = await case.completed()
    for days, is_hot, has_stems in ((29.9, True, True), (0.2, False, True), (59.8, False, True), (0.2, False, False)):
        case.clock.move(days=days)
        await case.sweeper.sweep()
        assert await case.is_hot(job) == is_hot
        assert case.keys(job) == ({"a1/vocals.mp3"} if has_stems else set())
        assert await case.store.get(job.id) == job, "the job is found in the archive"
    assert not (case.root / "jobs" / job.id).exists()


async def test_failed_job_keeps_row_and_input_for_7_days(case: SweepCase) -> None:
    job = await case.failed()
    case.clock.move(days=6.9)
    await case.sweeper.sweep()
    assert await case.is_hot(job) and case.keys(job) == {"input"}
    case.clock.move(days=0.2)
    swept = await case.sweeper.sweep()
    assert swept.archived == 1
    assert not await case.is_hot(job) and case.keys(job) == set()
    assert await case.store.get(job.id) == job


async def test_cancelled_job_leaves_nothing(case: SweepCase) -> None:
    job = await case.failed("cancelled")
    await case.sweeper.sweep()
    assert not (case.root / "jobs" / job.id).exists()
    assert case.storage.scratch_on_disk() == []


async def test_completed_job_drops_lost_attempts_then_input(case: SweepCase) -> None:
    job = await case.running()
    case.put(f"jobs/{job.id}/a1/half.mp3")
    await case.store.next_attempt(job.id, 1)
    case.put(f"jobs/{job.id}/a2/vocals.mp3")
    await case.store.complete(job.id, 2, result_of(job, 2), 1)
    case.clock.move(days=2.9)
    await case.sweeper.sweep()
    assert case.keys(job) == {"a2/vocals.mp3", "input"}
    case.clock.move(days=0.2)
    await case.sweeper.sweep()
    assert case.keys(job) == {"a2/vocals.mp3"}


async def test_song_is_deleted_before_its_row_is_archived(case: SweepCase) -> None:
    long = RETENTION.model_copy(update={"input_days": 60})
    job = await case.completed()
    case.clock.move(days=29.9)
    await Sweeper(case.store, case.storage, case.clock, long).sweep()
    assert case.keys(job) == {"a1/vocals.mp3", "input"}
    case.clock.move(days=0.2)
    await Sweeper(case.store, case.storage, case.clock, long).sweep()
    assert case.keys(job) == {"a1/vocals.mp3"} and not await case.is_hot(job)


async def test_active_jobs_are_untouched(case: SweepCase) -> None:
    running = await case.running("a")
    again = await case.running("b")
    waiting = await case.pending("c")
    await case.store.next_attempt(again.id, 1)
    case.put(f"scratch/{again.id}-a2/mix.raw")
    case.put(f"jobs/{again.id}/a2/half.mp3")
    case.clock.move(days=1000)  # after a long standstill of the queue
    await case.sweeper.sweep()
    assert case.keys(running) == case.keys(waiting) == {"input"}
    assert case.keys(again) == {"input", "a2/half.mp3"}
    assert {name for name, _ in case.storage.scratch_on_disk()} == {f"{running.id}-a1", f"{again.id}-a2"}


async def test_scratch_of_inactive_jobs_is_deleted(case: SweepCase) -> None:
    done, failed = await case.completed(), await case.failed()
    case.put(f"scratch/{new_job_id()}-a1/mix.raw")
    swept = await case.sweeper.sweep()
    assert case.storage.scratch_on_disk() == []
    assert swept.leftovers_removed == 3
    assert await case.store.get(done.id) == done and await case.store.get(failed.id) == failed


async def test_kept_stems_stay_until_deleted(case: SweepCase) -> None:
    early, late, never = await case.completed("a"), await case.completed("b"), await case.completed("c")
    await case.store.keep(early.id, True)
    case.clock.move(days=40)
    await case.sweeper.sweep()
    kept = await case.store.keep(late.id, True)  # archived by now
    assert kept is not None and kept.keep
    case.clock.move(days=500)
    await case.sweeper.sweep()
    assert case.keys(early) == case.keys(late) == {"a1/vocals.mp3"}
    assert case.keys(never) == set()
    await case.store.keep(late.id, False)
    assert await case.store.delete(early.id)
    await case.sweeper.sweep()
    assert case.keys(early) == case.keys(late) == set()
    assert await case.store.get(early.id) is None
    assert await case.store.get(late.id) is not None


async def test_crash_during_delete_still_removes_files(case: SweepCase) -> None:
    job, archived = await case.completed("a"), await case.completed("b")
    case.clock.move(days=31)
    await case.sweeper.sweep()
    job = await case.completed("a")
    assert await case.store.delete(job.id) and await case.store.delete(archived.id)
    # Here the process was killed, before it deleted the files.
    await case.sweeper.sweep()
    assert case.keys(job) == case.keys(archived) == set()
    assert await case.store.deletions() == []


async def test_upload_without_job_is_deleted_after_a_day(case: SweepCase) -> None:
    arriving = new_job_id(case.clock())
    case.put(f"jobs/{arriving}/input")
    case.put(f"jobs/{arriving}/.input.ab12.part")
    case.clock.move(hours=23)
    await case.sweeper.sweep()
    assert (case.root / f"jobs/{arriving}/input").exists()
    case.clock.move(hours=2)
    await case.sweeper.sweep()
    assert not (case.root / f"jobs/{arriving}").exists()


async def test_result_without_row_is_kept_for_90_days(case: SweepCase) -> None:
    unknown = new_job_id(case.clock())  # as after restoring an older database
    case.put(f"jobs/{unknown}/a1/vocals.mp3")
    case.clock.move(days=89)
    await case.sweeper.sweep()
    assert (case.root / f"jobs/{unknown}/a1/vocals.mp3").exists()
    case.clock.move(days=2)
    await case.sweeper.sweep()
    assert not (case.root / f"jobs/{unknown}").exists()


async def test_foreign_files_are_never_touched(case: SweepCase, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("keep")
    for decoy in DECOYS:
        case.put(decoy)
    for place in ("jobs", "scratch"):
        old = new_job_id(case.clock())
        (case.root / place).mkdir(exist_ok=True)
        (case.root / place / (old if place == "jobs" else f"{old}-a1")).symlink_to(outside)
    mine = await case.completed()
    await case.store.delete(mine.id)
    case.clock.move(days=3000)
    for _ in range(2):
        await case.sweeper.sweep()
    assert [decoy for decoy in DECOYS if not (case.root / decoy).is_file()] == []
    assert (outside / "file").read_text() == "keep"
    assert sum(path.is_symlink() for path in (case.root / "jobs").iterdir()) == 1
    assert sum(path.is_symlink() for path in (case.root / "scratch").iterdir()) == 1


async def test_job_that_cannot_be_deleted_does_not_stop_sweep(case: SweepCase, monkeypatch: pytest.MonkeyPatch) -> None:
    stuck, other = await case.completed("a"), await case.completed("b")
    remove = case.storage.delete_tree

    async def delete_unless_stuck(prefix: str) -> None:
        if stuck.id in prefix:
            raise StorageFailed(detail="read-only")
        await remove(prefix)

    case.clock.move(days=4)
    await case.sweeper.sweep()
    case.clock.move(days=87)
    monkeypatch.setattr(case.storage, "delete_tree", delete_unless_stuck)
    await case.sweeper.sweep()
    assert case.keys(other) == set() and case.keys(stuck) == {"a1/vocals.mp3"}
    monkeypatch.undo()
    await case.sweeper.sweep()
    assert case.keys(stuck) == set()


async def test_sweeper_continues_after_failed_sweep(case: SweepCase) -> None:
    job = await case.completed()
    case.clock.move(days=91)
    (case.root / "archive").write_text("in the way")  # no month can be written
    task = asyncio.create_task(case.sweeper.run())
    while case.keys(job):
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    assert not task.done() and await case.is_hot(job)
    (case.root / "archive").unlink()
    while await case.is_hot(job):
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await case.store.get(job.id) == job


async def test_start_years_ahead_deletes_nothing(case: SweepCase, caplog: pytest.LogCaptureFixture) -> None:
    job = await case.completed()
    await case.store.close()
    settings = load(data_dir=case.root, retention={"sweep_interval_s": 0.05}, workers={"devices": ["cpu"]})
    clock = Clock(START + timedelta(days=5000))
    caplog.set_level("INFO", "engine.dispatch.sweeper")
    async with asyncio.timeout(30), backend(settings, with_web=False, now=clock) as opened:
        while caplog.text.count("swept") < 2:
            await asyncio.sleep(0.01)
        assert (await opened.service.get(job.id)).job == job
    assert case.keys(job) == {"a1/vocals.mp3", "input"}
