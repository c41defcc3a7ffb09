"""All workers, on this machine and in the cluster; each attempt goes to the least busy one."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Sequence

from engine.gateway.protocol import GatewayConfig
from engine.jobs.job import Stage
from engine.jobs.models import STATES
from engine.pool.handle import PoolLimits, WorkerHandle
from engine.pool.local import WorkerProcess
from engine.pool.remote import GATEWAY, Cluster
from engine.worker.protocol import AttemptSpec, Done, ModelState, WorkerConfig

LOCAL_WORKER = (sys.executable, "-m", "engine.worker")
_MAX_START_FAILURES = 2


class WorkerPool:
    """The workers of this machine, and of a cluster if there is one."""

    def __init__(
        self,
        configs: Sequence[WorkerConfig],
        limits: PoolLimits,
        command: Sequence[str] = LOCAL_WORKER,
        gateway: GatewayConfig | None = None,
        gateway_command: Sequence[str] = GATEWAY,
    ) -> None:
        """Create one local worker per config. `command` starts it, with the config as its last argument."""
        self._on_change: Callable[[], None] | None = None
        self._changed = asyncio.Event()
        self._local = [WorkerProcess(config, limits, command, self._change) for config in configs]
        self.cluster = Cluster(gateway, limits, self._change, gateway_command) if gateway is not None else None

    @property
    def workers(self) -> list[WorkerHandle]:
        """All current workers, ready or not."""
        return [*self._local, *(self.cluster.workers if self.cluster is not None else ())]

    def _change(self) -> None:
        self._changed.set()
        if self._on_change is not None:
            self._on_change()

    async def start(self, on_change: Callable[[], None] | None = None) -> None:
        """Start all workers. `on_change` is called in the event loop when a slot may have become free."""
        self._on_change = on_change
        for worker in self._local:
            worker.start()
        if self.cluster is not None:
            self.cluster.start()

    async def stop(self) -> None:
        """Stop all workers; running attempts are lost."""
        cluster = [self.cluster.stop()] if self.cluster is not None else []
        await asyncio.gather(*(worker.stop() for worker in self._local), *cluster)

    @property
    def slots(self) -> int:
        """The number of attempts that ready workers can run at once."""
        return sum(worker.slots for worker in self._in_use)

    @property
    def cluster_problem(self) -> str | None:
        """The problem with the cluster, in a sentence for the operator."""
        return self.cluster.problem if self.cluster is not None else None

    @property
    def has_no_workers(self) -> bool:
        """Whether there is a cluster and no worker is ready. A local worker restarts within seconds."""
        return self.cluster is not None and not any(worker.ready for worker in self.workers)

    @property
    def models(self) -> dict[str, ModelState]:
        """The best availability of each model on any worker."""
        best: dict[str, ModelState] = {}
        for worker in self.workers:
            for state in worker.models:
                if state.name not in best or STATES.index(state.state) < STATES.index(best[state.name].state):
                    best[state.name] = state
        return best

    def model_version(self, name: str) -> str | None:
        """Return the version of a model's weights; None while no worker has them."""
        state = self.models.get(name)
        return state.version if state is not None else None

    @property
    def _in_use(self) -> list[WorkerHandle]:
        """The workers that take jobs; a CPU in place of a failed GPU is only used if no other worker is ready."""
        as_configured = [worker for worker in self.workers if not worker.stands_in]
        return as_configured if any(worker.ready for worker in as_configured) else self.workers

    @property
    def device(self) -> str:
        """The device name that learned speeds belong to."""
        ready = next((worker.ready for worker in self._in_use if worker.ready), None)
        return ready.device_name if ready else self._local[0].name if self._local else "none"

    async def wait_ready(self, timeout_s: float) -> bool:
        """Wait for a worker to become ready; return False on timeout or repeated crashes."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not any(worker.ready for worker in self.workers):
                    if self.cluster is None and all(worker.deaths >= _MAX_START_FAILURES for worker in self._local):
                        return False
                    self._changed.clear()
                    await self._changed.wait()
                return True
        return False

    async def run(
        self,
        spec: AttemptSpec,
        *,
        exclusive: bool = False,
        timeout_s: float,
        stall_factor: float = 1.0,
        on_progress: Callable[[Stage, float], None],
        on_cpu: Callable[[], float] = lambda: 0.0,
    ) -> Done:
        """Run an attempt on the least busy worker that can take it, waiting for one.

        `exclusive` attempts have no neighbours, for a job whose last worker died. `timeout_s` applies once to the
        preparation and once from the first segment on. `stall_factor` (1 or more) extends the stall timeout on a slow
        device. Raises `AttemptError`s; see `WorkerHandle.run`.
        """
        while True:
            candidates = [worker for worker in self._in_use if worker.can_take(exclusive=exclusive)]
            if candidates:
                worker = min(candidates, key=lambda each: each.attempts)
                return await worker.run(
                    spec,
                    exclusive=exclusive,
                    timeout_s=timeout_s,
                    stall_factor=stall_factor,
                    on_progress=on_progress,
                    on_cpu=on_cpu,
                )
            self._changed.clear()
            await self._changed.wait()
