"""The workers of other machines, as the main process sees them: like local ones, only that they come and go."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.util import find_spec

from engine.errors import NodeLost, WorkerDied
from engine.gateway.protocol import (
    Forward,
    GatewayConfig,
    Kill,
    Output,
    Status,
    WorkerAdded,
    WorkerDraining,
    WorkerRemoved,
    from_gateway,
)
from engine.pool.handle import PoolLimits, WorkerHandle
from engine.pool.local import worker_environment
from engine.pool.supervisor import Supervisor, SupervisorCallbacks
from engine.process.environment import ray_environment
from engine.worker.protocol import Message

log = logging.getLogger(__name__)

GATEWAY = (sys.executable, "-m", "engine.gateway")
_SHUTDOWN_TIMEOUT_S = 8.0


def ray_is_installed() -> bool:
    return find_spec("ray") is not None


class ClusterWorker(WorkerHandle):
    """One worker on another machine, for one life."""

    def __init__(self, worker_id: str, name: str, cluster: Cluster) -> None:
        super().__init__(name, cluster.limits, cluster.on_change)
        self.worker_id = worker_id
        self.heard_at = time.monotonic()
        self._cluster = cluster

    @property
    def deaths(self) -> int:
        return self._cluster.deaths_of(self.name)

    def kill(self) -> None:
        self._cluster.say(Kill(worker=self.worker_id))

    def _send(self, message: Message) -> None:
        self._cluster.say(Forward(worker=self.worker_id, words=message.line().decode()))

    def handle_line(self, line: bytes | str) -> None:
        self.heard_at = time.monotonic()
        super().handle_line(line)


class Cluster:
    """The gateway's process, and the workers it speaks for."""

    def __init__(
        self,
        config: GatewayConfig,
        limits: PoolLimits,
        on_change: Callable[[], None],
        command: Sequence[str] = GATEWAY,
    ) -> None:
        self.limits = limits
        self.on_change = on_change
        self._workers: dict[str, ClusterWorker] = {}
        self._deaths: Counter[str] = Counter()
        self._troubles: dict[str, str] = {"head": f"The Ray head at {config.address} has not been reached yet."}
        self._watch: asyncio.Task[None] | None = None
        events = SupervisorCallbacks(
            line=self._handle_line, end=self._gateway_ended, silence_timeout_s=lambda: limits.heartbeat_timeout_s
        )
        self._child = Supervisor(
            "the cluster's gateway",
            [*command, config.model_dump_json()],
            worker_environment(config.worker) | ray_environment(),
            events,
        )

    @property
    def workers(self) -> list[ClusterWorker]:
        return list(self._workers.values())

    @property
    def trouble(self) -> str | None:
        """What is wrong, in sentences for the operator; None: nothing that we know of."""
        return " ".join(self._troubles.values()) or None

    @property
    def pid(self) -> int | None:
        """Of the gateway."""
        return self._child.pid

    def deaths_of(self, name: str) -> int:
        return self._deaths[name]

    def start(self) -> None:
        self._child.start()
        self._watch = asyncio.create_task(self._watch_silence(), name="silence in the cluster")

    async def stop(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        await self._child.stop(_SHUTDOWN_TIMEOUT_S)
        self._lose_all()

    def say(self, message: Message) -> None:
        self._child.send(message)

    def _handle_line(self, line: bytes) -> None:
        try:
            message = from_gateway.validate_json(line)
        except ValueError:
            log.error("the cluster's gateway said something that is not of the protocol")
            self._child.kill()
            return
        if isinstance(message, WorkerAdded):
            self._workers[message.worker] = ClusterWorker(message.worker, message.name, self)
        elif isinstance(message, Status):
            self._note(message)
        elif isinstance(message, Output | WorkerDraining | WorkerRemoved):
            worker = self._workers.get(message.worker)
            if worker is not None:
                self._about(worker, message)

    def _about(self, worker: ClusterWorker, message: Output | WorkerDraining | WorkerRemoved) -> None:
        if isinstance(message, Output):
            worker.handle_line(message.words)
            return
        if isinstance(message, WorkerDraining):
            log.info("worker %s: its node is being drained, %d attempt(s) to end", worker.name, worker.attempts)
            worker.leaving = True
        else:
            log.warning("worker %s is gone: %s", worker.name, message.reason)
            self._deaths[worker.name] += not worker.leaving
            del self._workers[worker.worker_id]
            worker.fail_all(NodeLost if message.lost else WorkerDied)
        self.on_change()

    def _note(self, trouble: Status) -> None:
        if trouble.text is not None:
            log.error("%s", trouble.text)
            self._troubles[trouble.about] = trouble.text
        elif self._troubles.pop(trouble.about, None) is not None:
            log.info("the cluster: %s is well again", trouble.about)
        self.on_change()

    def _gateway_ended(self) -> None:
        self._troubles = {"head": self._troubles.get("head", "The connection to the Ray cluster was lost.")}
        self._lose_all()
        self.on_change()

    def _lose_all(self) -> None:
        workers, self._workers = self.workers, {}
        for worker in workers:
            worker.fail_all(NodeLost)

    async def _watch_silence(self) -> None:
        while True:
            await asyncio.sleep(min(1.0, self.limits.heartbeat_timeout_s / 4))
            now = time.monotonic()
            for worker in self.workers:
                if worker.leaving and not worker.attempts:
                    worker.kill()
                elif now - worker.heard_at > worker.silence_timeout_s:
                    log.error("worker %s is silent for %.0f s", worker.name, worker.silence_timeout_s)
                    worker.kill()
                    worker.heard_at = now  # the gateway answers at once that it is gone
