"""What the parent knows of one worker, and its conversation with it, whatever carries the lines."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field

from engine.clock import pause_overrun_s
from engine.errors import AttemptTimedOut, StemifyError, WorkerDied, WorkerStalled, error_from_code
from engine.jobs.job import Stage
from engine.worker.protocol import (
    AttemptSpec,
    Cancel,
    Done,
    Failed,
    Heartbeat,
    Message,
    Progress,
    Ready,
    Start,
    from_worker,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PoolLimits:
    """How the pool treats its workers; times in seconds."""

    attempts_per_worker: int
    heartbeat_timeout_s: float
    stall_timeout_s: float
    start_timeout_s: float
    cancel_grace_s: float


@dataclass
class _RunningAttempt:
    """One attempt on one worker, as the parent sees it."""

    spec: AttemptSpec
    on_progress: Callable[[Stage, float], None]
    outcome: asyncio.Future[Done]
    timeout_s: float
    deadline: float
    on_cpu: Callable[[], float]
    separating: bool = False
    told_on_cpu: bool = False
    moved_at: float = field(default_factory=lambda: time.monotonic())
    alone: bool = False


class WorkerHandle(ABC):
    """One worker: its attempts, their clocks, and the words that go to and fro."""

    def __init__(self, name: str, limits: PoolLimits, on_change: Callable[[], None]) -> None:
        self.name = name
        self._limits = limits
        self._on_change = on_change
        self._runs: dict[tuple[str, int], _RunningAttempt] = {}
        self._alone = 0  # how many of them want the device to themselves; asked for all workers, at every claim
        self.ready: Ready | None = None
        self.heartbeat: Heartbeat | None = None
        self.leaving = False
        """It takes no more attempts and ends with the ones it has."""

    @property
    def pid(self) -> int | None:
        """Of its process, where that is on this machine and lives."""
        return None

    @property
    @abstractmethod
    def deaths(self) -> int:
        """How often it has died."""

    @abstractmethod
    def kill(self) -> None:
        """Take the worker down, whatever it does; its attempts are lost."""

    @abstractmethod
    def _send(self, message: Message) -> None:
        """A word to the worker; lost without a trace when it is gone."""

    @property
    def attempts(self) -> int:
        return len(self._runs)

    @property
    def silence_timeout_s(self) -> float:
        return self._limits.heartbeat_timeout_s if self.ready else self._limits.start_timeout_s

    @property
    def slots(self) -> int:
        """Attempts that it can run at once, as things are."""
        if self.ready is None:
            return 0
        if self.leaving:
            return len(self._runs)
        return 1 if self._alone else self._limits.attempts_per_worker

    def can_take(self, *, alone: bool) -> bool:
        if self.ready is None or self.leaving:
            return False
        if self._alone or (alone and self._runs):
            return False
        return len(self._runs) < self._limits.attempts_per_worker

    async def run(
        self,
        spec: AttemptSpec,
        *,
        alone: bool,
        timeout_s: float,
        slowness: float,
        on_progress: Callable[[Stage, float], None],
        on_cpu: Callable[[], float],
    ) -> Done:
        """Run an attempt to its end. `on_cpu` is called when the CPU has to stand in for the worker's GPU, and says
        how many seconds the attempt may take from then on. Raises `AttemptError`s. When the calling task is cancelled
        the attempt is cancelled on the worker, within `cancel_grace_s`, by force if need be, before this returns."""
        outcome: asyncio.Future[Done] = asyncio.get_running_loop().create_future()
        run = _RunningAttempt(spec, on_progress, outcome, timeout_s, time.monotonic() + timeout_s, on_cpu, alone=alone)
        key = (spec.job_id, spec.attempt)
        self._runs[key] = run
        self._alone += alone
        self._send(Start(spec=spec))
        stall_s = self._limits.stall_timeout_s * max(1.0, slowness)
        try:
            while True:
                stalled_at = run.moved_at + stall_s
                wait_s = min(run.deadline, stalled_at) - time.monotonic()
                if wait_s <= 0:
                    await self._cancel_run(run)
                    raise AttemptTimedOut if run.deadline < stalled_at else WorkerStalled
                pause_s, began = min(wait_s, 5.0), time.monotonic()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        return await asyncio.shield(run.outcome)
                stood_still_s = pause_overrun_s(time.monotonic() - began, pause_s)
                run.deadline += stood_still_s
                run.moved_at += stood_still_s
        except asyncio.CancelledError:
            await _to_its_end(self._cancel_run(run))
            raise
        finally:
            self._runs.pop(key, None)
            self._alone -= alone
            if not run.outcome.done():
                run.outcome.cancel()
            self._on_change()

    async def _cancel_run(self, run: _RunningAttempt) -> None:
        """Make the worker let go of an attempt."""
        self._send(Cancel(job_id=run.spec.job_id, attempt=run.spec.attempt))
        with contextlib.suppress(TimeoutError, StemifyError):
            await asyncio.wait_for(asyncio.shield(run.outcome), self._limits.cancel_grace_s)
        if not run.outcome.done():
            log.warning("worker %s does not let go of job %s: killing it", self.name, run.spec.job_id)
            self.kill()
            with contextlib.suppress(TimeoutError, StemifyError):
                await asyncio.wait_for(asyncio.shield(run.outcome), 2.0)

    def handle_line(self, line: bytes | str) -> None:
        """A line that the worker said. What is not of the protocol costs its life."""
        try:
            message = from_worker.validate_json(line)
        except ValueError:
            log.error("worker %s said something that is not of the protocol", self.name)
            self.kill()
            return
        if isinstance(message, Ready):
            self.ready = message
            log.info("worker %s is ready on %s", self.name, message.device_name)
            self._on_change()
            return
        if isinstance(message, Heartbeat):
            self.heartbeat = message
            return
        run = self._runs.get((message.job_id, message.attempt))
        if run is None or run.outcome.done():
            return  # a late word about an attempt that was taken away
        if isinstance(message, Progress):
            run.moved_at = time.monotonic()
            if message.stage is Stage.SEPARATING and not run.separating:
                # A first job may have fetched its model until here, which is not the song's fault.
                run.separating, run.deadline = True, run.moved_at + run.timeout_s
            if message.on_cpu and not run.told_on_cpu:
                run.told_on_cpu, run.deadline = True, max(run.deadline, run.moved_at + run.on_cpu())
            run.on_progress(message.stage, message.fraction)
        elif isinstance(message, Done):
            run.outcome.set_result(message)
        elif isinstance(message, Failed):
            if message.detail:
                log.error("job %s attempt %s: %s: %s", message.job_id, message.attempt, message.code, message.detail)
            run.outcome.set_exception(error_from_code(message.code, message.message))
            run.outcome.exception()  # looked at: an attempt nobody awaits any more is no warning

    def fail_all(self, error: type[WorkerDied] = WorkerDied) -> None:
        """The worker is gone, and all its attempts with it."""
        self.ready = None
        for run in self._runs.values():
            if not run.outcome.done():
                run.outcome.set_exception(error())
                run.outcome.exception()


async def _to_its_end(work: Coroutine[None, None, None]) -> None:
    """Cancelling the caller again does not stop what must be done."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    task.result()
