"""The pool with real child processes."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from engine.errors import AttemptTimedOut, BrokenAudio, WorkerDied, WorkerStalled
from engine.jobs.job import Stage
from engine.pool.pool import LOCAL_WORKER, WorkerPool
from engine.worker.protocol import Done, Ready, WorkerConfig
from tests.fixtures.jobs import spec_of
from tests.integration.conftest import PoolMaker


async def run(pool: WorkerPool, title: str, *, alone: bool = False, timeout_s: float = 30.0) -> Done:
    return await pool.run(spec_of(title), exclusive=alone, timeout_s=timeout_s, on_progress=lambda *_: None)


async def started(pool: WorkerPool, title: str, *, timeout_s: float = 30.0) -> asyncio.Task[Done]:
    """Start an attempt and return it once its worker has reported progress."""
    reported = asyncio.Event()
    attempt = asyncio.create_task(pool.run(spec_of(title), timeout_s=timeout_s, on_progress=lambda *_: reported.set()))
    async with asyncio.timeout(60):
        await reported.wait()
    return attempt


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def test_attempt_returns_result_and_reports_progress(stand_in_pool: PoolMaker, tmp_path: Path) -> None:
    seen: list[tuple[Stage, float]] = []
    async with stand_in_pool() as pool:
        spec = spec_of("steps")
        done = await pool.run(spec, timeout_s=10, on_progress=lambda stage, fraction: seen.append((stage, fraction)))
    assert done.result.job_id == spec.job_id
    assert (tmp_path / "data" / spec.output_key / "vocals.wav").exists()
    assert [fraction for _, fraction in seen] == [0.1, 0.2, 0.4, 0.6, 0.8, 1.0]


async def test_dead_worker_fails_attempt_and_restarts(stand_in_pool: PoolMaker, tmp_path: Path) -> None:
    async with stand_in_pool() as pool:
        with pytest.raises(WorkerDied):
            await run(pool, "die")
        assert (await run(pool, "fine")).attempt == 1
        assert pool.workers[0].deaths == 1


async def test_sigkill_of_worker_is_noticed_at_once(stand_in_pool: PoolMaker, tmp_path: Path) -> None:
    async with stand_in_pool(heartbeat_timeout_s=3600.0, stall_timeout_s=3600.0) as pool:
        attempt = await started(pool, "hang", timeout_s=3600.0)
        pid = pool.workers[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(WorkerDied):
            await attempt


async def test_silent_worker_is_killed(stand_in_pool: PoolMaker, tmp_path: Path) -> None:
    async with stand_in_pool(heartbeat_timeout_s=0.5) as pool:
        attempt = await started(pool, "hang")
        pid = pool.workers[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(WorkerDied):
            await attempt
        assert gone(pid)
        await run(pool, "fine")


async def test_suspended_machine_kills_no_worker(stand_in_pool: PoolMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock jumps, as in a virtual machine that was paused."""
    clock, ahead_s = time.monotonic, 0.0
    monkeypatch.setattr(time, "monotonic", lambda: clock() + ahead_s)
    async with stand_in_pool(stall_timeout_s=5.0) as pool:
        attempt = await started(pool, "slow 1")
        ahead_s = 1000.0
        assert (await attempt).attempt == 1
        assert pool.workers[0].deaths == 0


async def test_attempt_without_progress_is_stalled(stand_in_pool: PoolMaker, tmp_path: Path) -> None:
    async with stand_in_pool(stall_timeout_s=0.3) as pool:
        with pytest.raises(WorkerStalled):
            await run(pool, "hang")
        assert pool.workers[0].deaths == 0, "a worker that cancels is not killed"


async def test_attempt_past_deadline_times_out(stand_in_pool: PoolMaker, tmp_path: Path) -> None:
    async with stand_in_pool() as pool:
        with pytest.raises(AttemptTimedOut):
            await run(pool, "slow 20", timeout_s=0.3)


async def test_cpu_fallback_extends_attempt_deadline(stand_in_pool: PoolMaker) -> None:
    calls: list[str] = []

    def on_cpu() -> float:
        calls.append("on_cpu")
        return 20.0

    async with stand_in_pool() as pool:
        spec = spec_of("on cpu 0.8")
        await pool.run(spec, timeout_s=0.4, on_progress=lambda *_: None, on_cpu=on_cpu)
        with pytest.raises(AttemptTimedOut):
            await run(pool, "slow 20", timeout_s=0.4)
    assert calls == ["on_cpu"]


async def test_externally_killed_worker_counts_as_out_of_memory(stand_in_pool: PoolMaker) -> None:
    async with stand_in_pool(heartbeat_timeout_s=0.5) as pool:
        with pytest.raises(WorkerDied, match="ran out of memory") as killed:
            await run(pool, "kill")
        assert killed.value.transient
        with pytest.raises(WorkerDied) as hung:  # killed by the pool
            await run(pool, "silent")
        assert "memory" not in hung.value.message


@pytest.mark.parametrize(("title", "deaths"), [("hang", 0), ("deaf", 1)])
async def test_cancel_kills_worker_that_ignores_it(stand_in_pool: PoolMaker, title: str, deaths: int) -> None:
    async with stand_in_pool(heartbeat_timeout_s=3600.0, stall_timeout_s=3600.0) as pool:
        attempt = await started(pool, title, timeout_s=3600.0)
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt
        assert (pool.workers[0].attempts, pool.workers[0].deaths) == (0, deaths)
        await run(pool, "fine")


async def test_exclusive_attempt_has_no_neighbours(stand_in_pool: PoolMaker) -> None:
    order: list[str] = []

    async def attempt(name: str, title: str, *, alone: bool = False) -> None:
        await pool.run(
            spec_of(title), exclusive=alone, timeout_s=30.0, on_progress=lambda *_: order.append(f"{name} runs")
        )
        order.append(f"{name} ended")

    async with stand_in_pool() as pool, asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        tasks.create_task(attempt("neighbour", "slow 0.2"))
        while not order:
            await asyncio.sleep(0.01)
        tasks.create_task(attempt("suspect", "slow 0.2", alone=True))
        while "suspect runs" not in order:
            await asyncio.sleep(0.01)
        tasks.create_task(attempt("late", "fine"))
    assert order == ["neighbour runs", "neighbour ended", "suspect runs", "suspect ended", "late runs", "late ended"]


async def test_worker_with_invalid_output_is_replaced(stand_in_pool: PoolMaker, tmp_path: Path) -> None:
    async with stand_in_pool() as pool:
        with pytest.raises(WorkerDied):
            await run(pool, "garbage")
        await run(pool, "fine")


async def test_error_keeps_class_and_message_across_pipe(stand_in_pool: PoolMaker, tmp_path: Path) -> None:
    async with stand_in_pool() as pool:
        with pytest.raises(BrokenAudio, match="It failed, as asked"):
            await run(pool, "fail broken_audio")


async def test_attempts_spread_over_workers(stand_in_pool: PoolMaker, tmp_path: Path) -> None:
    async with stand_in_pool(workers=2) as pool:
        attempts = [await started(pool, "slow 0.3") for _ in range(2)]
        assert [worker.attempts for worker in pool.workers] == [1, 1]
        await asyncio.gather(*attempts)


async def test_stopped_pool_leaves_no_process(stand_in_pool: PoolMaker, tmp_path: Path) -> None:
    async with stand_in_pool(workers=2) as pool:
        pids = [worker.pid for worker in pool.workers]
        attempt = await started(pool, "deaf")
    with pytest.raises(WorkerDied):
        await attempt
    assert all(pid is not None and gone(pid) for pid in pids)


async def test_missing_device_is_replaced_and_reported_in_one_line(tmp_path: Path) -> None:
    config = WorkerConfig(
        device="cuda:99", data_dir=str(tmp_path), cache_dir=str(tmp_path / "models"), model_memory_bytes=1 << 30,
        heartbeat_s=0.1, decode_timeout_s=10.0, child_memory_bytes=1 << 30, input_bytes=1 << 20,
    )  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        *LOCAL_WORKER, config.model_dump_json(),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    ready = Ready.model_validate_json(await process.stdout.readline())
    assert (ready.device, ready.stands_in) == ("cpu", True)
    process.stdin.close()  # it ends with its input
    _, stderr = await process.communicate()
    assert b"cuda:99 is not used, because " in stderr and b"Traceback" not in stderr


async def test_cpu_in_place_of_a_failed_gpu_works_only_alone(stand_in_pool: PoolMaker) -> None:
    async with stand_in_pool(devices=("cuda:9", "cpu")) as pool:
        replaced, healthy = pool.workers
        slow = [await started(pool, "slow 0.5") for _ in range(2)]
        assert (replaced.attempts, healthy.attempts) == (0, 2)
        await asyncio.gather(*slow)
    async with stand_in_pool(devices=("cuda:9",)) as pool:
        await run(pool, "fine")
