"""The pool with remote workers, through a fake gateway. For the real one see tests/cluster."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from engine.errors import NodeLost, WorkerDied
from engine.gateway.protocol import GatewayConfig
from engine.pool.pool import WorkerPool
from engine.worker.protocol import Done, WorkerConfig
from tests.fixtures.jobs import spec_of
from tests.integration.conftest import LIMITS

FAKE_GATEWAY = (sys.executable, str(Path(__file__).parents[2] / "fakes" / "gateway.py"))
Run = Callable[..., Awaitable[Done]]


@pytest.fixture
async def pool(tmp_path: Path) -> AsyncIterator[WorkerPool]:
    worker = WorkerConfig(
        device="cpu", data_dir=str(tmp_path), cache_dir=str(tmp_path), model_memory_bytes=1 << 30, heartbeat_s=0.1,
        decode_timeout_s=10.0, child_memory_bytes=1 << 30, input_bytes=1 << 20,
    )  # fmt: skip
    gateway = GatewayConfig(
        address="10.0.0.1:6379", node_ip=None, own_node=False, cpus_per_worker=1, heartbeat_s=0.1, worker=worker,
        lease_s=4.0,
    )  # fmt: skip
    pool = WorkerPool([], replace(LIMITS, heartbeat_timeout_s=4.0), gateway=gateway, gateway_command=FAKE_GATEWAY)
    assert pool.has_no_workers and "10.0.0.1:6379 has not been reached" in str(pool.cluster_problem)
    await pool.start()
    try:
        await ready(pool, 2)
        yield pool
    finally:
        await pool.stop()


async def ready(pool: WorkerPool, count: int) -> None:
    async with asyncio.timeout(60):
        while sum(worker.ready is not None and not worker.draining for worker in pool.workers) != count:
            await asyncio.sleep(0.01)


@pytest.fixture
def run(pool: WorkerPool, tmp_path: Path) -> Run:
    async def one(title: str, *, alone: bool = False) -> Done:
        spec = spec_of(title)
        return await pool.run(spec, exclusive=alone, timeout_s=30.0, on_progress=lambda *_: None)

    return one


async def test_attempts_spread_over_nodes(pool: WorkerPool, run: Run) -> None:
    assert pool.slots == 6 and pool.cluster_problem is None and not pool.has_no_workers
    attempts = [asyncio.ensure_future(run("hang")) for _ in range(4)]
    await asyncio.sleep(0.1)
    assert [worker.attempts for worker in pool.workers] == [2, 2]
    for attempt in attempts:
        attempt.cancel()
    await asyncio.gather(*attempts, return_exceptions=True)
    assert (await run("fine")).attempt == 1
    assert sum(worker.deaths for worker in pool.workers) == 0


async def test_lost_node_and_dead_actor_raise_different_errors(pool: WorkerPool, run: Run) -> None:
    with pytest.raises(NodeLost):
        await run("machine dies")
    with pytest.raises(WorkerDied) as caught:
        await run("actor dies")
    assert not isinstance(caught.value, NodeLost)
    await ready(pool, 2)
    assert sum(worker.deaths for worker in pool.workers) == 2


async def test_stuck_actor_is_killed_without_its_neighbour(pool: WorkerPool, run: Run) -> None:
    others = [asyncio.ensure_future(run("hang")) for _ in range(2)]
    await asyncio.sleep(0.1)
    deaf = asyncio.ensure_future(run("deaf"))
    await asyncio.sleep(0.1)
    deaf.cancel()
    with pytest.raises(asyncio.CancelledError):
        await deaf
    ended, going = await asyncio.wait(others, timeout=30.0, return_when=asyncio.FIRST_COMPLETED)
    assert (len(ended), len(going)) == (1, 1), "only the actor that ignored the cancellation is killed"
    await ready(pool, 2)
    going.pop().cancel()


async def test_silent_remote_worker_is_replaced(pool: WorkerPool, run: Run) -> None:
    with pytest.raises(WorkerDied):  # before the stall timeout and the deadline, after 30 s
        await run("stands still")
    await ready(pool, 2)


async def test_draining_node_finishes_and_gets_no_new_attempts(pool: WorkerPool, run: Run) -> None:
    draining = asyncio.ensure_future(run("drain"))
    await ready(pool, 1)
    assert pool.slots == 4, "its own attempt, and three slots on the other node"
    assert all([(await run("fine")).attempt == 1 for _ in range(4)])
    assert (await draining).attempt == 1
    await ready(pool, 2)
    assert sum(worker.deaths for worker in pool.workers) == 0, "draining is not a death"


async def test_lost_gateway_is_restarted_and_reported(pool: WorkerPool, run: Run) -> None:
    hanging = asyncio.ensure_future(run("hang"))
    await asyncio.sleep(0.1)
    with pytest.raises(NodeLost):
        await run("gateway dies")
    with pytest.raises(NodeLost):
        await hanging
    assert pool.has_no_workers and pool.cluster_problem == "The connection to the Ray cluster was lost."
    await ready(pool, 2)
    assert pool.cluster_problem is None
    assert (await run("fine")).attempt == 1
