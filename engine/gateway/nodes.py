"""The gateway's book of nodes: which workers there should be, and the talk with each through its actor."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import ray
from ray._private.state import state as ray_state  # draining stands nowhere else
from ray.exceptions import ActorUnavailableError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from engine.gateway.actor import WorkerActor
from engine.gateway.protocol import GatewayConfig, Output, Status, WorkerAdded, WorkerDraining, WorkerRemoved
from engine.gateway.versions import describe_mismatch, versions
from engine.worker.process import MessageWriter
from engine.worker.protocol import Ready, from_worker

log = logging.getLogger(__name__)

_RECONCILE_INTERVAL_S = 0.2
_PAUSES_S = (1.0, 5.0, 15.0, 30.0)


@dataclass(frozen=True)
class Node:
    """A living node of the cluster."""

    node_id: str
    address: str
    gpus: int
    cpus: int
    draining: bool


def read_nodes() -> list[Node]:
    """All living nodes. Blocks, for ever when the head is away."""
    ask: Any = ray.nodes
    draining = ray_state.get_draining_nodes()
    return [
        Node(
            node_id=each["NodeID"],
            address=each["NodeManagerAddress"],
            gpus=int(each["Resources"].get("GPU", 0)),
            cpus=int(each["Resources"].get("CPU", 0)),
            draining=each["NodeID"] in draining,
        )
        for each in ask()
        if each["Alive"]
    ]


@dataclass
class _WorkerSlot:
    """Room for one worker on a node: a GPU, or some CPUs."""

    node: Node
    name: str
    number: int = 0  # of workers that were started here
    failures: int = 0
    not_before: float = 0.0
    worker: _Worker | None = None


@dataclass
class _Worker:
    worker_id: str
    task: asyncio.Task[None] | None = None
    lines: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    reason: str | None = None  # why it was dropped
    lost: bool = False
    leaving: bool = False
    ready: bool = False


class NodeManager:
    def __init__(self, config: GatewayConfig, secret: str | None, wire: MessageWriter) -> None:
        self._config = config
        self._secret = secret  # of the storage
        self._wire = wire
        self._places: dict[tuple[str, int], _WorkerSlot] = {}
        self._workers: dict[str, _Worker] = {}
        self._troubles: set[str] = set()
        self._known: set[str] = set()  # nodes that the log has named

    def reconcile(self, nodes: list[Node]) -> None:
        """Start workers where there is room for one, and see off those whose node is gone or is being drained."""
        alive = {node.node_id: node for node in nodes}
        for node in nodes:
            if node.node_id not in self._known:
                self._known.add(node.node_id)
                log.info("node %s joined: %s, %d GPU(s), %d CPU(s)", node.node_id, node.address, node.gpus, node.cpus)
            for index, name in self._rooms(node):
                self._places.setdefault((node.node_id, index), _WorkerSlot(node, name))
        for key, place in list(self._places.items()):
            here = alive.get(key[0])
            if here is None:
                if place.worker is not None:
                    self._end(place.worker, "its machine is gone", lost=True)
                self._trouble(place.name, None)
                del self._places[key]
            elif here.draining:
                if place.worker is not None and not place.worker.leaving:
                    place.worker.leaving = True
                    self._wire.send(WorkerDraining(worker=place.worker.worker_id))
            elif place.worker is None and time.monotonic() >= place.not_before:
                self._start(place)

    def tell(self, worker_id: str, line: str) -> None:
        worker = self._workers.get(worker_id)
        if worker is not None:
            worker.lines.put_nowait(line)

    def drop(self, worker_id: str, reason: str) -> None:
        worker = self._workers.get(worker_id)
        if worker is not None:
            self._end(worker, reason, lost=False)

    def _rooms(self, node: Node) -> Iterator[tuple[int, str]]:
        if node.gpus:
            yield from ((index, f"{node.address} gpu {index}") for index in range(node.gpus))
        elif self._config.cpus_per_worker:
            count = node.cpus // self._config.cpus_per_worker
            yield from ((index, f"{node.address} cpu {index}") for index in range(count))

    def _start(self, place: _WorkerSlot) -> None:
        place.number += 1
        worker = _Worker(f"{place.node.node_id[:12]}/{place.name}/{place.number}")
        place.worker = self._workers[worker.worker_id] = worker
        self._wire.send(WorkerAdded(worker=worker.worker_id, name=place.name))
        worker.task = asyncio.create_task(self._life(place, worker), name=worker.worker_id)

    def _end(self, worker: _Worker, reason: str, *, lost: bool) -> None:
        if worker.task is not None and worker.reason is None:
            worker.reason, worker.lost = reason, lost
            worker.task.cancel()

    async def _life(self, place: _WorkerSlot, worker: _Worker) -> None:
        actor: Any = None
        try:
            actor = self._actor(place.node)
            complaint = describe_mismatch(versions(), await actor.versions.remote())
            if complaint is not None:
                worker.reason = complaint
                return
            await actor.begin.remote()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._tell(actor, worker))
                tasks.create_task(self._hear(actor, worker, place))
        except* asyncio.CancelledError:
            pass  # `_end` has said why
        except* RayError as errors:
            error = errors.exceptions[0]
            worker.reason = worker.reason or _last_line(error)
            worker.lost = worker.lost or "node has died" in str(error)
        except* Exception as errors:
            log.exception("worker %s", worker.worker_id)
            worker.reason = worker.reason or repr(errors.exceptions[0])
        finally:
            try:
                if actor is not None:
                    ray.kill(actor)
            finally:
                self._over(place, worker)

    def _over(self, place: _WorkerSlot, worker: _Worker) -> None:
        reason = worker.reason or "it ended"
        del self._workers[worker.worker_id]
        place.worker = None
        place.failures = 0 if worker.ready else place.failures + 1
        place.not_before = time.monotonic() + _PAUSES_S[min(place.failures, len(_PAUSES_S) - 1)]
        if not worker.ready and not worker.leaving and not worker.lost:
            self._trouble(place.name, f"No worker starts on {place.name}: {reason}")
        self._wire.send(WorkerRemoved(worker=worker.worker_id, reason=reason, lost=worker.lost))

    def _actor(self, node: Node) -> Any:
        gpu = node.gpus > 0
        config = self._config.worker.model_copy(
            update={"device": "cuda:0"} if gpu else {"device": "cpu", "threads": self._config.cpus_per_worker}
        )
        as_actor: Any = ray.remote  # its annotations know no concurrency groups
        kind = as_actor(
            num_gpus=1 if gpu else 0,
            num_cpus=0 if gpu else self._config.cpus_per_worker,
            max_restarts=0,
            max_task_retries=0,
            concurrency_groups={"tell": 1, "hear": 1},
        )(WorkerActor)
        strategy = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
        arguments = (config.model_dump_json(), self._secret, self._config.lease_s)
        return kind.options(scheduling_strategy=strategy).remote(*arguments)

    async def _tell(self, actor: Any, worker: _Worker) -> None:
        number = 0
        while True:
            line = await worker.lines.get()
            number += 1
            while True:
                try:
                    await actor.tell.options(concurrency_group="tell").remote(number, line)
                    break
                except ActorUnavailableError:
                    await asyncio.sleep(_RECONCILE_INTERVAL_S)

    async def _hear(self, actor: Any, worker: _Worker, place: _WorkerSlot) -> None:
        arrived = 0
        while True:
            try:
                total, lines = await actor.hear.options(concurrency_group="hear").remote(arrived)
            except ActorUnavailableError:
                await asyncio.sleep(_RECONCILE_INTERVAL_S)
                continue
            for line in lines[len(lines) - (total - arrived) :]:
                self._wire.send(Output(worker=worker.worker_id, words=line))
            arrived = total
            if not worker.ready and any(isinstance(from_worker.validate_json(line), Ready) for line in lines):
                worker.ready = True
                self._trouble(place.name, None)

    def _trouble(self, about: str, text: str | None) -> None:
        if text is not None or about in self._troubles:
            self._wire.send(Status(about=about, text=text))
        (self._troubles.discard if text is None else self._troubles.add)(about)


def _last_line(error: BaseException) -> str:
    """Ray's errors are pages long, and end with what happened."""
    lines: list[str] = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
