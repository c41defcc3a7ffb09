"""Claim order and queue positions."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.database.job_store import JobStore
from engine.database.queue_positions import _EXACT_UP_TO_JOBS, QueuePosition
from engine.jobs.job import Job, JobStatus
from tests.fixtures.jobs import NO_QUEUE_LIMITS, Clock, pending_job, result_of, waiting_ids

Step = tuple[str, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["add", "add", "add", "add", "claim", "claim", "claim", "complete", "fail", "cancel", "delete", "retry"]
        ),
        st.integers(0, 30),
    ),
    min_size=20,
    max_size=40,
)


@dataclass
class Known:
    """A job of the model."""

    job: Job
    status: str = "pending"
    attempt: int = 0


class Model:
    """The claim order without SQL: running jobs of the owner, last claim of the owner, age."""

    def __init__(self) -> None:
        self.jobs: dict[str, Known] = {}
        self.last_claim: dict[str, int] = {}
        self.claims = 0

    def of(self, *statuses: str) -> list[Known]:
        return [known for known in self.jobs.values() if known.status in statuses]

    def claim(self) -> str | None:
        running = Counter(known.job.owner for known in self.of("processing"))
        order = sorted(
            self.of("pending"),
            key=lambda known: (
                running[known.job.owner],
                self.last_claim.get(known.job.owner, 0),
                known.job.created_at,
                known.job.owner,
            ),
        )
        if not order:
            return None
        first = order[0]
        self.claims += 1
        self.last_claim[first.job.owner] = self.claims
        first.status, first.attempt = "processing", 1
        return first.job.id

    def order(self) -> list[str]:
        """Return the ids in claim order if no job ends."""
        ahead = Model()
        ahead.jobs = {name: Known(known.job, known.status) for name, known in self.jobs.items()}
        ahead.last_claim, ahead.claims = dict(self.last_claim), self.claims
        found = []
        while (job_id := ahead.claim()) is not None:
            found.append(job_id)
        return found


async def play(steps: Sequence[Step], path: Path) -> None:
    store = await JobStore.open(path, now=Clock(), readers=1)
    model = Model()
    try:
        for what, number in steps:
            await one_step(store, model, what, number)
            expected = model.order()
            if expected:  # after each step: the cached order must never be stale
                durations = [model.jobs[job_id].job.estimated_duration for job_id in expected]
                assert await store.standing(expected[-1]) == QueuePosition(len(expected), sum(durations[:-1]))
        counts = await store.counts()
        assert counts == {status: len(model.of(status)) for status in JobStatus}
        expected = model.order()
        assert await waiting_ids(store) == expected
        places = [await store.standing(job_id) for job_id in expected]
        assert [each.place for each in places if each] == list(range(1, len(expected) + 1))
        for known in model.of("processing", "completed", "failed"):
            assert await store.standing(known.job.id) is None
        while (job_id := model.claim()) is not None:
            claimed = await store.claim()
            assert claimed is not None and claimed.id == job_id
        assert await store.claim() is None
    finally:
        await store.close()


async def one_step(store: JobStore, model: Model, what: str, number: int) -> None:
    running = model.of("processing")
    waiting = model.of("pending")
    if what == "add":
        job = pending_job("abc"[number % 3])
        await store.add(job, NO_QUEUE_LIMITS)
        model.jobs[job.id] = Known(job)
    elif what == "claim":
        claimed = await store.claim()
        assert (claimed.id if claimed else None) == model.claim()
    elif what == "complete" and running:
        known = running[number % len(running)]
        assert await store.complete(known.job.id, known.attempt, result_of(known.job), 1)
        known.status = "completed"
    elif what == "fail" and running:
        known = running[number % len(running)]
        assert await store.fail(known.job.id, attempt=known.attempt, code="x", message="x.")
        known.status = "failed"
    elif what == "retry" and running:
        known = running[number % len(running)]
        assert await store.next_attempt(known.job.id, known.attempt)
        known.attempt += 1
    elif what == "cancel" and waiting:
        known = waiting[number % len(waiting)]
        assert await store.fail(known.job.id, attempt=None, code="cancelled", message="Cancelled.")
        known.status = "failed"
    elif what == "delete" and model.jobs:
        job_id = sorted(model.jobs)[number % len(model.jobs)]
        assert await store.delete(job_id)
        del model.jobs[job_id]


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(STEPS)
def test_random_operations_keep_queue_invariants(steps: list[Step]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(play(steps, Path(folder) / "stemify.sqlite3"))


async def test_light_user_does_not_wait_behind_heavy_one(tmp_path: Path) -> None:
    store = await JobStore.open(tmp_path / "stemify.sqlite3")
    for _ in range(20):
        await store.add(pending_job("heavy"), NO_QUEUE_LIMITS)
    for number in range(10):
        await store.add(pending_job(f"light {number}"), NO_QUEUE_LIMITS)
    order = []
    while (job := await store.claim()) is not None:  # one worker: each job ends before the next is claimed
        order.append(job.owner)
        await store.complete(job.id, 1, result_of(job), 1)
    assert max(order.index(f"light {number}") for number in range(10)) <= 10
    assert order[11:] == ["heavy"] * 19
    await store.close()


async def test_two_heavy_users_take_turns(tmp_path: Path) -> None:
    store = await JobStore.open(tmp_path / "stemify.sqlite3")
    for owner in "aaaaabbbbb":
        await store.add(pending_job(owner), NO_QUEUE_LIMITS)
    order = ""
    while (job := await store.claim()) is not None:
        order += job.owner
        await store.fail(job.id, attempt=1, code="x", message="x.")
    assert order == "ababababab"
    await store.close()


async def test_clock_jump_does_not_change_the_order(tmp_path: Path) -> None:
    clock = Clock()
    store = await JobStore.open(tmp_path / "stemify.sqlite3", now=clock)
    for owner in "aaabbb":
        await store.add(pending_job(owner), NO_QUEUE_LIMITS)
    order = ""
    for days in (400, -800, 400, 400, -400, 0):
        clock.move(days=days)
        job = await store.claim()
        assert job is not None
        order += job.owner
        await store.fail(job.id, attempt=1, code="x", message="x.")
    assert order == "ababab"
    await store.close()


async def test_queue_place_is_exact_for_new_job_in_long_queue(tmp_path: Path) -> None:
    store = await JobStore.open(tmp_path / "stemify.sqlite3")
    heavy = [pending_job("heavy") for _ in range(_EXACT_UP_TO_JOBS + 5)]
    for job in heavy:
        await store.add(job, NO_QUEUE_LIMITS)
    assert await store.standing(heavy[-1].id) == QueuePosition(_EXACT_UP_TO_JOBS + 5, 30.0 * (_EXACT_UP_TO_JOBS + 4))
    light = pending_job("light")
    await store.add(light, NO_QUEUE_LIMITS)
    expected = (await waiting_ids(store)).index(light.id) + 1
    assert expected < 10
    assert await store.standing(light.id) == QueuePosition(expected, 30.0 * (expected - 1))
    claimed = await store.claim()
    assert claimed is not None
    async with asyncio.timeout(60):
        while await store.standing(claimed.id) is not None:
            await asyncio.sleep(0.05)
    assert await store.standing(heavy[-1].id) == QueuePosition(_EXACT_UP_TO_JOBS + 5, 30.0 * (_EXACT_UP_TO_JOBS + 4))
    await store.close()
