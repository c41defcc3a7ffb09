"""Handles of workers on other machines, which the gateway starts and ends."""

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
    """Return whether the `cluster` extra is installed."""
    return find_spec("ray") is not None


class ClusterWorker(WorkerHandle):
    """One worker on another machine; a restarted worker is another object."""

    def __init__(self, worker_id: str, name: str, cluster: Cluster) -> None:
        super().__init__(name, cluster.limits, cluster.on_change)
        self.worker_id = worker_id
        self.last_line_at = time.monotonic()
        self._cluster = cluster

    @property
    def deaths(self) -> int:
        return self._cluster.deaths_of(self.name)

    def kill(self) -> None:
        self._cluster.send(Kill(worker=self.worker_id))

    def _send(self, message: Message) -> None:
        self._cluster.send(Forward(worker=self.worker_id, content=message.line().decode()))

    def handle_line(self, line: bytes | str) -> None:
        self.last_line_at = time.monotonic()
        super().handle_line(line)


class Cluster:
    """The gateway process and the workers behind it."""

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
        self._problems: dict[str, str] = {"head": f"The Ray head at {config.address} has not been reached yet."}
        self._watch: asyncio.Task[None] | None = None
        callbacks = SupervisorCallbacks(
            line=self._handle_line, end=self._on_gateway_end, silence_timeout_s=lambda: limits.heartbeat_timeout_s
        )
        self._supervisor = Supervisor(
            "gateway",
            [*command, config.model_dump_json()],
            worker_environment(config.worker) | ray_environment(),
            callbacks,
        )

    @property
    def workers(self) -> list[ClusterWorker]:
        return list(self._workers.values())

    @property
    def problem(self) -> str | None:
        """All known problems, in sentences for the operator."""
        return " ".join(self._problems.values()) or None

    @property
    def pid(self) -> int | None:
        """The process id of the gateway."""
        return self._supervisor.pid

    def deaths_of(self, name: str) -> int:
        """Return how often the worker of a slot has died."""
        return self._deaths[name]

    def start(self) -> None:
        """Start the gateway."""
        self._supervisor.start()
        self._watch = asyncio.create_task(self._watch_silence(), name="cluster silence")

    async def stop(self) -> None:
        """Stop the gateway and fail all attempts."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        await self._supervisor.stop(_SHUTDOWN_TIMEOUT_S)
        self._lose_all()

    def send(self, message: Message) -> None:
        """Send a message to the gateway; ignored if it is not running."""
        self._supervisor.send(message)

    def _handle_line(self, line: bytes) -> None:
        try:
            message = from_gateway.validate_json(line)
        except ValueError:
            log.error("the gateway sent an invalid message")
            self._supervisor.kill()
            return
        if isinstance(message, WorkerAdded):
            self._workers[message.worker] = ClusterWorker(message.worker, message.name, self)
        elif isinstance(message, Status):
            self._on_status(message)
        elif isinstance(message, Output | WorkerDraining | WorkerRemoved):
            worker = self._workers.get(message.worker)
            if worker is not None:
                self._on_worker_message(worker, message)

    def _on_worker_message(self, worker: ClusterWorker, message: Output | WorkerDraining | WorkerRemoved) -> None:
        if isinstance(message, Output):
            worker.handle_line(message.content)
            return
        if isinstance(message, WorkerDraining):
            log.info("worker %s: node is being drained, attempts left: %d", worker.name, worker.attempts)
            worker.draining = True
        else:
            log.warning("worker %s is gone: %s", worker.name, message.reason)
            self._deaths[worker.name] += not worker.draining
            del self._workers[worker.worker_id]
            worker.fail_all(NodeLost if message.lost else WorkerDied)
        self.on_change()

    def _on_status(self, status: Status) -> None:
        if status.text is not None:
            log.error("%s", status.text)
            self._problems[status.subject] = status.text
        elif self._problems.pop(status.subject, None) is not None:
            log.info("cluster: %s recovered", status.subject)
        self.on_change()

    def _on_gateway_end(self) -> None:
        self._problems = {"head": self._problems.get("head", "The connection to the Ray cluster was lost.")}
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
                if worker.draining and not worker.attempts:
                    worker.kill()
                elif now - worker.last_line_at > worker.silence_timeout_s:
                    log.error("worker %s was silent for %.0f s: killing it", worker.name, worker.silence_timeout_s)
                    worker.kill()
                    worker.last_line_at = now  # kill it once: the gateway reports its end at once
