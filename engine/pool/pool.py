"""All workers, on this machine and in the cluster; each attempt goes to the least busy one."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Sequence

from engine.gateway.protocol import GatewayConfig
from engine.jobs.job import Stage
from engine.pool.handle import PoolLimits, WorkerHandle
from engine.pool.local import WorkerProcess
from engine.pool.remote import GATEWAY, Cluster
from engine.worker.protocol import AttemptSpec, Done, ModelState, WorkerConfig

LOCAL_WORKER = (sys.executable, "-m", "engine.worker")
_HOPELESS_DEATHS = 2


class WorkerPool:
    """The workers of this machine, and of a cluster where there is one: these come and go."""

    def __init__(
        self,
        configs: Sequence[WorkerConfig],
        limits: PoolLimits,
        command: Sequence[str] = LOCAL_WORKER,
        gateway: GatewayConfig | None = None,
        gateway_command: Sequence[str] = GATEWAY,
    ) -> None:
        """One worker a config. `command` is what starts one; it is given the config as a last argument."""
        self._on_change: Callable[[], None] | None = None
        self._changed = asyncio.Event()
        self._local = [WorkerProcess(config, limits, command, self._change) for config in configs]
        self.cluster = Cluster(gateway, limits, self._change, gateway_command) if gateway is not None else None

    @property
    def workers(self) -> list[WorkerHandle]:
        """All there are now, ready or not."""
        return [*self._local, *(self.cluster.workers if self.cluster is not None else ())]

    def _change(self) -> None:
        self._changed.set()
        if self._on_change is not None:
            self._on_change()

    async def start(self, on_change: Callable[[], None] | None = None) -> None:
        """`on_change` is called (in the event loop) whenever a slot may have become free."""
        self._on_change = on_change
        for worker in self._local:
            worker.start()
        if self.cluster is not None:
            self.cluster.start()

    async def stop(self) -> None:
        cluster = [self.cluster.stop()] if self.cluster is not None else []
        await asyncio.gather(*(worker.stop() for worker in self._local), *cluster)

    @property
    def slots(self) -> int:
        """Attempts that the workers which are ready can run at once."""
        return sum(worker.slots for worker in self.workers)

    @property
    def trouble(self) -> str | None:
        """What is wrong with the cluster, for the operator."""
        return self.cluster.trouble if self.cluster is not None else None

    @property
    def has_no_workers(self) -> bool:
        """Whether all machines of the cluster are away and nobody else works. (A local worker comes back by itself in
        seconds.)"""
        return self.cluster is not None and not any(worker.ready for worker in self.workers)

    @property
    def models(self) -> dict[str, ModelState]:
        """The best that any worker says of each model."""
        order = {"ready": 0, "to_fetch": 1, "unavailable": 2}
        best: dict[str, ModelState] = {}
        for worker in self.workers:
            for state in worker.ready.models if worker.ready else ():
                if state.name not in best or order[state.state] < order[best[state.name].state]:
                    best[state.name] = state
        return best

    @property
    def device(self) -> str:
        """What kind of device estimates are learned for."""
        ready = next((worker.ready for worker in self.workers if worker.ready), None)
        return ready.device_name if ready else self._local[0].name if self._local else "none"

    async def wait_ready(self, timeout_s: float) -> bool:
        """Whether a worker became ready in time; no use waiting for one that dies again and again."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not any(worker.ready for worker in self.workers):
                    if self.cluster is None and all(worker.deaths >= _HOPELESS_DEATHS for worker in self._local):
                        return False
                    self._changed.clear()
                    await self._changed.wait()
                return True
        return False

    async def run(
        self,
        spec: AttemptSpec,
        *,
        alone: bool = False,
        timeout_s: float,
        slowness: float = 1.0,
        on_progress: Callable[[Stage, float], None],
        on_cpu: Callable[[], float] = lambda: 0.0,
    ) -> Done:
        """Run an attempt on the least busy worker that can take it, waiting for one. `alone`: with no neighbours, for
        an attempt whose last worker died. `timeout_s` is given once for getting ready and once from the first segment
        on; `slowness` (1 or more) stretches the stall watchdog on a slow device. Raises `AttemptError`s; see
        `WorkerProcess.run`."""
        while True:
            takers = [worker for worker in self.workers if worker.can_take(alone=alone)]
            if takers:
                worker = min(takers, key=lambda each: each.attempts)
                return await worker.run(
                    spec,
                    alone=alone,
                    timeout_s=timeout_s,
                    slowness=slowness,
                    on_progress=on_progress,
                    on_cpu=on_cpu,
                )
            self._changed.clear()
            await self._changed.wait()
