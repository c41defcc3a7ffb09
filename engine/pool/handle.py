"""The main process's handle of one worker, independent of the transport."""

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
    ModelState,
    Progress,
    Ready,
    Start,
    from_worker,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PoolLimits:
    """Limits of the pool."""

    attempts_per_worker: int
    heartbeat_timeout_s: float
    stall_timeout_s: float
    start_timeout_s: float
    cancel_grace_s: float


@dataclass
class _RunningAttempt:
    """An attempt that runs on a worker."""

    spec: AttemptSpec
    on_progress: Callable[[Stage, float], None]
    outcome: asyncio.Future[Done]
    timeout_s: float
    deadline: float
    on_cpu: Callable[[], float]
    separating: bool = False
    cpu_reported: bool = False
    progressed_at: float = field(default_factory=lambda: time.monotonic())
    exclusive: bool = False


class WorkerHandle(ABC):
    """A worker, its running attempts and their deadlines."""

    def __init__(self, name: str, limits: PoolLimits, on_change: Callable[[], None]) -> None:
        self.name = name
        self._limits = limits
        self._on_change = on_change
        self._runs: dict[tuple[str, int], _RunningAttempt] = {}
        self._exclusive = 0  # the number of exclusive attempts: counted here, since every claim needs it
        self.ready: Ready | None = None
        self.models: tuple[ModelState, ...] = ()  # as last reported, also while the worker restarts
        self.heartbeat: Heartbeat | None = None
        self.draining = False
        """Finish the running attempts and accept no new ones."""

    @property
    def pid(self) -> int | None:
        """The id of its process, if that runs on this machine."""
        return None

    @property
    @abstractmethod
    def deaths(self) -> int:
        """The number of times it has died."""

    @abstractmethod
    def kill(self) -> None:
        """Kill the worker; its attempts are lost."""

    @abstractmethod
    def _send(self, message: Message) -> None:
        """Send a message; ignored if the worker is gone."""

    @property
    def attempts(self) -> int:
        """The number of running attempts."""
        return len(self._runs)

    @property
    def stands_in(self) -> bool:
        """Whether its CPU works in place of a GPU that failed its test."""
        return self.ready is not None and self.ready.stands_in

    @property
    def silence_timeout_s(self) -> float:
        """How long it may send nothing before it is killed."""
        return self._limits.heartbeat_timeout_s if self.ready else self._limits.start_timeout_s

    @property
    def slots(self) -> int:
        """The number of attempts that it can run at once."""
        if self.ready is None:
            return 0
        if self.draining:
            return len(self._runs)
        return 1 if self._exclusive else self._limits.attempts_per_worker

    def can_take(self, *, exclusive: bool) -> bool:
        """Return whether it can start another attempt now."""
        if self.ready is None or self.draining:
            return False
        if self._exclusive or (exclusive and self._runs):
            return False
        return len(self._runs) < self._limits.attempts_per_worker

    async def run(
        self,
        spec: AttemptSpec,
        *,
        exclusive: bool,
        timeout_s: float,
        stall_factor: float,
        on_progress: Callable[[Stage, float], None],
        on_cpu: Callable[[], float],
    ) -> Done:
        """Run an attempt and return its result.

        `on_cpu` is called when the CPU takes over from the worker's GPU, and returns the seconds that the attempt may
        take from then on. When the calling task is cancelled, the attempt is cancelled on the worker; if that takes
        longer than `cancel_grace_s`, the worker is killed. Raises `AttemptError`s.
        """
        outcome: asyncio.Future[Done] = asyncio.get_running_loop().create_future()
        run = _RunningAttempt(
            spec, on_progress, outcome, timeout_s, time.monotonic() + timeout_s, on_cpu, exclusive=exclusive
        )
        key = (spec.job_id, spec.attempt)
        self._runs[key] = run
        self._exclusive += exclusive
        self._send(Start(spec=spec))
        stall_s = self._limits.stall_timeout_s * max(1.0, stall_factor)
        try:
            while True:
                stalled_at = run.progressed_at + stall_s
                wait_s = min(run.deadline, stalled_at) - time.monotonic()
                if wait_s <= 0:
                    await self._cancel_run(run)
                    raise AttemptTimedOut if run.deadline < stalled_at else WorkerStalled
                pause_s, began = min(wait_s, 5.0), time.monotonic()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        return await asyncio.shield(run.outcome)
                overrun_s = pause_overrun_s(time.monotonic() - began, pause_s)
                run.deadline += overrun_s
                run.progressed_at += overrun_s
        except asyncio.CancelledError:
            await _run_shielded(self._cancel_run(run))
            raise
        finally:
            self._runs.pop(key, None)
            self._exclusive -= exclusive
            if not run.outcome.done():
                run.outcome.cancel()
            self._on_change()

    async def _cancel_run(self, run: _RunningAttempt) -> None:
        """Cancel an attempt on the worker; kill the worker if it does not respond."""
        self._send(Cancel(job_id=run.spec.job_id, attempt=run.spec.attempt))
        with contextlib.suppress(TimeoutError, StemifyError):
            await asyncio.wait_for(asyncio.shield(run.outcome), self._limits.cancel_grace_s)
        if not run.outcome.done():
            log.warning("worker %s did not cancel job %s: killing it", self.name, run.spec.job_id)
            self.kill()
            with contextlib.suppress(TimeoutError, StemifyError):
                await asyncio.wait_for(asyncio.shield(run.outcome), 2.0)

    def handle_line(self, line: bytes | str) -> None:
        """Handle one line from the worker. An invalid line kills it."""
        try:
            message = from_worker.validate_json(line)
        except ValueError:
            log.error("worker %s sent an invalid message", self.name)
            self.kill()
            return
        if isinstance(message, Ready):
            self.ready, self.models = message, message.models
            log.info("worker %s is ready on %s", self.name, message.device_name)
            self._on_change()
            return
        if isinstance(message, Heartbeat):
            self.heartbeat = message
            return
        run = self._runs.get((message.job_id, message.attempt))
        if run is None or run.outcome.done():
            return  # a late message about an attempt that is over
        if isinstance(message, Progress):
            run.progressed_at = time.monotonic()
            if message.stage is Stage.SEPARATING and not run.separating:
                # The time before this may include a download of the model.
                run.separating, run.deadline = True, run.progressed_at + run.timeout_s
            if message.on_cpu and not run.cpu_reported:
                run.cpu_reported, run.deadline = True, max(run.deadline, run.progressed_at + run.on_cpu())
            run.on_progress(message.stage, message.fraction)
        elif isinstance(message, Done):
            if self.ready is not None:
                for model, version in message.result.versions.items():
                    self.ready = self.ready.with_version(model, version)
                self.models = self.ready.models
            run.outcome.set_result(message)
        elif isinstance(message, Failed):
            if message.detail:
                log.error("job %s attempt %s: %s: %s", message.job_id, message.attempt, message.code, message.detail)
            run.outcome.set_exception(error_from_code(message.code, message.message))
            run.outcome.exception()  # retrieved, so that an attempt without a waiter logs no warning

    def fail_all(self, error: type[WorkerDied] = WorkerDied) -> None:
        """Fail all attempts, since the worker is gone."""
        self.ready = None
        for run in self._runs.values():
            if not run.outcome.done():
                run.outcome.set_exception(error())
                run.outcome.exception()


async def _run_shielded(work: Coroutine[None, None, None]) -> None:
    """Run `work` to its end, even if the caller is cancelled again."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    task.result()
