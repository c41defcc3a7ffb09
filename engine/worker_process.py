"""The parent's side of one device's worker: starts it, watches it, hands it attempts, restarts it when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engine.errors import AttemptTimedOut, StemifyError, WorkerDied, WorkerStalled, from_wire
from engine.jobs import Stage
from engine.protocol import (
    SECRET_VARIABLE,
    AttemptSpec,
    Cancel,
    Done,
    Failed,
    Heartbeat,
    Message,
    Progress,
    Ready,
    Shutdown,
    Start,
    WorkerConfig,
    from_worker,
)

log = logging.getLogger(__name__)

_LINE_BYTES = 4 << 20
_RESTART_PAUSES_S = (0.1, 1.0, 5.0, 15.0, 30.0)
_STABLE_S = 60.0


@dataclass(frozen=True)
class PoolLimits:
    """How the pool treats its workers; times in seconds."""

    attempts_per_worker: int
    heartbeat_timeout_s: float
    stall_timeout_s: float
    start_timeout_s: float
    cancel_grace_s: float


@dataclass
class _Run:
    """One attempt on one worker, as the parent sees it."""

    spec: AttemptSpec
    on_progress: Callable[[Stage, float], None]
    outcome: asyncio.Future[Done]
    timeout_s: float
    deadline: float
    separating: bool = False
    moved_at: float = field(default_factory=time.monotonic)
    alone: bool = False


class WorkerProcess:
    """One device's worker, through all the processes that it lives in."""

    def __init__(
        self, config: WorkerConfig, limits: PoolLimits, command: Sequence[str], on_change: Callable[[], None]
    ) -> None:
        self.config = config
        self._command = command
        self._limits = limits
        self._on_change = on_change
        self._process: asyncio.subprocess.Process | None = None
        self._runs: dict[tuple[str, int], _Run] = {}
        self._heard_at = 0.0
        self._life: asyncio.Task[None] | None = None
        self._closing = False
        self.ready: Ready | None = None
        self.heartbeat: Heartbeat | None = None
        self.deaths = 0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    @property
    def attempts(self) -> int:
        return len(self._runs)

    @property
    def slots(self) -> int:
        """Attempts that it can run at once, as things are."""
        if self.ready is None or self._closing:
            return 0
        return 1 if any(run.alone for run in self._runs.values()) else self._limits.attempts_per_worker

    def can_take(self, *, alone: bool) -> bool:
        if self.ready is None or self._closing:
            return False
        if any(run.alone for run in self._runs.values()) or (alone and self._runs):
            return False
        return len(self._runs) < self._limits.attempts_per_worker

    def start(self) -> None:
        self._life = asyncio.create_task(self._live(), name=f"worker {self.config.device}")

    async def stop(self) -> None:
        """Ask it to end, then make it."""
        self._closing = True
        self._send(Shutdown())
        process = self._process
        if process is not None:
            try:
                await asyncio.wait_for(process.wait(), 1.0)
            except TimeoutError:
                self.kill()
        if self._life is not None:
            self._life.cancel()
            await asyncio.gather(self._life, return_exceptions=True)
        self._lose_runs()

    def kill(self) -> None:
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    async def run(
        self,
        spec: AttemptSpec,
        *,
        alone: bool,
        timeout_s: float,
        slowness: float,
        on_progress: Callable[[Stage, float], None],
    ) -> Done:
        """Run an attempt to its end. Raises `AttemptError`s. When the calling task is cancelled the attempt is
        cancelled on the worker, within `cancel_grace_s`, by force if need be, before this returns."""
        outcome: asyncio.Future[Done] = asyncio.get_running_loop().create_future()
        run = _Run(spec, on_progress, outcome, timeout_s, time.monotonic() + timeout_s, alone=alone)
        key = (spec.job_id, spec.attempt)
        self._runs[key] = run
        self._send(Start(spec=spec))
        stall_s = self._limits.stall_timeout_s * max(1.0, slowness)
        try:
            while True:
                stalled_at = run.moved_at + stall_s
                wait_s = min(run.deadline, stalled_at) - time.monotonic()
                if wait_s <= 0:
                    await self._take_away(run)
                    raise AttemptTimedOut if run.deadline < stalled_at else WorkerStalled
                with contextlib.suppress(TimeoutError):
                    return await asyncio.wait_for(asyncio.shield(run.outcome), min(wait_s, 5.0))
        except asyncio.CancelledError:
            await _to_its_end(self._take_away(run))
            raise
        finally:
            self._runs.pop(key, None)
            if not run.outcome.done():
                run.outcome.cancel()
            self._on_change()

    async def _take_away(self, run: _Run) -> None:
        """Make the worker let go of an attempt."""
        self._send(Cancel(job_id=run.spec.job_id, attempt=run.spec.attempt))
        with contextlib.suppress(TimeoutError, StemifyError):
            await asyncio.wait_for(asyncio.shield(run.outcome), self._limits.cancel_grace_s)
        if not run.outcome.done():
            log.warning("worker %s does not let go of job %s: killing it", self.config.device, run.spec.job_id)
            self.kill()
            with contextlib.suppress(TimeoutError, StemifyError):
                await asyncio.wait_for(asyncio.shield(run.outcome), 2.0)

    def _send(self, message: Message) -> None:
        if self._process is not None and self._process.stdin is not None and self.pid is not None:
            with contextlib.suppress(OSError, RuntimeError):
                self._process.stdin.write(message.line())

    async def _live(self) -> None:
        failures = 0
        while not self._closing:
            born_at = time.monotonic()
            try:
                await self._one_life()
            except Exception:
                log.exception("worker %s", self.config.device)
                self.kill()
            self.ready = None
            self._lose_runs()
            if self._closing:
                return
            self.deaths += 1
            self._on_change()
            failures = 0 if time.monotonic() - born_at > _STABLE_S else failures + 1
            pause_s = _RESTART_PAUSES_S[min(failures, len(_RESTART_PAUSES_S) - 1)]
            code = self._process.returncode if self._process is not None else None
            log.warning("worker %s ended with code %s, starts again in %.1f s", self.config.device, code, pause_s)
            await asyncio.sleep(pause_s)

    async def _one_life(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            self.config.model_dump_json(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LINE_BYTES,
            env=worker_environment(self.config),
            cwd=Path(__file__).parent.parent,
        )
        self._heard_at = time.monotonic()
        watch = asyncio.create_task(self._watch_heartbeat())
        try:
            assert self._process.stdout is not None
            while line := await self._process.stdout.readline():
                self._heard_at = time.monotonic()
                self._hear(line)
            await self._process.wait()
        finally:
            watch.cancel()
            self.kill()
            await self._process.wait()

    async def _watch_heartbeat(self) -> None:
        while True:
            await asyncio.sleep(min(1.0, self._limits.heartbeat_timeout_s / 4))
            allowed_s = self._limits.heartbeat_timeout_s if self.ready else self._limits.start_timeout_s
            if time.monotonic() - self._heard_at > allowed_s:
                log.error("worker %s is silent for %.0f s: killing it", self.config.device, allowed_s)
                self.kill()
                return

    def _hear(self, line: bytes) -> None:
        try:
            message = from_worker.validate_json(line)
        except ValueError:
            log.error("worker %s said something that is not of the protocol", self.config.device)
            self.kill()
            return
        if isinstance(message, Ready):
            self.ready = message
            log.info("worker %s is ready on %s", message.device, message.device_name)
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
            run.on_progress(message.stage, message.fraction)
        elif isinstance(message, Done):
            run.outcome.set_result(message)
        elif isinstance(message, Failed):
            if message.detail:
                log.error("job %s attempt %s: %s: %s", message.job_id, message.attempt, message.code, message.detail)
            run.outcome.set_exception(from_wire(message.code, message.message))
            run.outcome.exception()  # looked at: an attempt nobody awaits any more is no warning

    def _lose_runs(self) -> None:
        for run in self._runs.values():
            if not run.outcome.done():
                run.outcome.set_exception(WorkerDied())
                run.outcome.exception()


async def _to_its_end(work: Coroutine[None, None, None]) -> None:
    """Cancelling the caller again does not stop what must be done."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    task.result()


def worker_environment(config: WorkerConfig) -> dict[str, str]:
    """The child's environment: ours without secrets but the one it needs, with the caches inside the data folder."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STEMIFY_")}
    if config.threads and config.device == "cpu":
        kept["OMP_NUM_THREADS"] = str(config.threads)
    secret = config.storage.secret_access_key if config.storage else None
    if secret is not None:
        kept[SECRET_VARIABLE] = secret.get_secret_value()
    kept["TORCH_HOME"] = str(Path(config.cache_dir) / "torch")
    return kept
