"""The gateway's book of nodes: which workers there should be, and the talk with each through its actor."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import ray
from ray._private.state import state as ray_state  # the public API does not report draining
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
    """Return all living nodes. Blocks for as long as the head is away."""
    ray_nodes: Any = ray.nodes
    draining = ray_state.get_draining_nodes()
    return [
        Node(
            node_id=each["NodeID"],
            address=each["NodeManagerAddress"],
            gpus=int(each["Resources"].get("GPU", 0)),
            cpus=int(each["Resources"].get("CPU", 0)),
            draining=each["NodeID"] in draining,
        )
        for each in ray_nodes()
        if each["Alive"]
    ]


@dataclass
class _WorkerSlot:
    """The devices for one worker on a node: a GPU, or some CPUs."""

    node: Node
    name: str
    number: int = 0  # of workers started so far
    failures: int = 0
    not_before: float = 0.0
    worker: _Worker | None = None


@dataclass
class _Worker:
    worker_id: str
    task: asyncio.Task[None] | None = None
    lines: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    reason: str | None = None  # for its end
    lost: bool = False
    draining: bool = False
    ready: bool = False


class NodeManager:
    """Run one worker per GPU, or per group of CPUs, on every node."""

    def __init__(self, config: GatewayConfig, storage_secret: str | None, writer: MessageWriter) -> None:
        self._config = config
        self._storage_secret = storage_secret
        self._writer = writer
        self._slots: dict[tuple[str, int], _WorkerSlot] = {}
        self._workers: dict[str, _Worker] = {}
        self._problems: set[str] = set()
        self._known: set[str] = set()  # ids of nodes already logged

    def reconcile(self, nodes: list[Node]) -> None:
        """Start a worker on every free slot; drain or end those whose node is drained or gone."""
        alive = {node.node_id: node for node in nodes}
        for node in nodes:
            if node.node_id not in self._known:
                self._known.add(node.node_id)
                log.info("node %s joined: %s, %d GPU(s), %d CPU(s)", node.node_id, node.address, node.gpus, node.cpus)
            for index, name in self._slots_of(node):
                self._slots.setdefault((node.node_id, index), _WorkerSlot(node, name))
        for key, slot in list(self._slots.items()):
            node_now = alive.get(key[0])
            if node_now is None:
                if slot.worker is not None:
                    self._end(slot.worker, "its machine is gone", lost=True)
                self._report(slot.name, None)
                del self._slots[key]
            elif node_now.draining:
                if slot.worker is not None and not slot.worker.draining:
                    slot.worker.draining = True
                    self._writer.send(WorkerDraining(worker=slot.worker.worker_id))
            elif slot.worker is None and time.monotonic() >= slot.not_before:
                self._start(slot)

    def forward(self, worker_id: str, line: str) -> None:
        """Queue a line for a worker; ignored if the worker is gone."""
        worker = self._workers.get(worker_id)
        if worker is not None:
            worker.lines.put_nowait(line)

    def kill(self, worker_id: str, reason: str) -> None:
        """Kill a worker; ignored if it is gone."""
        worker = self._workers.get(worker_id)
        if worker is not None:
            self._end(worker, reason, lost=False)

    def _slots_of(self, node: Node) -> Iterator[tuple[int, str]]:
        """Return index and name of every slot."""
        if node.gpus:
            yield from ((index, f"{node.address} gpu {index}") for index in range(node.gpus))
        elif self._config.cpus_per_worker:
            count = node.cpus // self._config.cpus_per_worker
            yield from ((index, f"{node.address} cpu {index}") for index in range(count))

    def _start(self, slot: _WorkerSlot) -> None:
        slot.number += 1
        worker = _Worker(f"{slot.node.node_id[:12]}/{slot.name}/{slot.number}")
        slot.worker = self._workers[worker.worker_id] = worker
        self._writer.send(WorkerAdded(worker=worker.worker_id, name=slot.name))
        worker.task = asyncio.create_task(self._run_worker(slot, worker), name=worker.worker_id)

    def _end(self, worker: _Worker, reason: str, *, lost: bool) -> None:
        if worker.task is not None and worker.reason is None:
            worker.reason, worker.lost = reason, lost
            worker.task.cancel()

    async def _run_worker(self, slot: _WorkerSlot, worker: _Worker) -> None:
        actor: Any = None
        try:
            actor = self._actor(slot.node)
            mismatch = describe_mismatch(versions(), await actor.versions.remote())
            if mismatch is not None:
                worker.reason = mismatch
                return
            await actor.start.remote()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._send_lines(actor, worker))
                tasks.create_task(self._poll_lines(actor, worker, slot))
        except* asyncio.CancelledError:
            pass  # `_end` has set the reason
        except* RayError as errors:
            error = errors.exceptions[0]
            worker.reason = worker.reason or _last_line(error)
            worker.lost = worker.lost or "node has died" in str(error)
        except* Exception as errors:
            log.exception("worker %s failed", worker.worker_id)
            worker.reason = worker.reason or repr(errors.exceptions[0])
        finally:
            try:
                if actor is not None:
                    ray.kill(actor)
            finally:
                self._on_end(slot, worker)

    def _on_end(self, slot: _WorkerSlot, worker: _Worker) -> None:
        reason = worker.reason or "it ended"
        del self._workers[worker.worker_id]
        slot.worker = None
        slot.failures = 0 if worker.ready else slot.failures + 1
        slot.not_before = time.monotonic() + _PAUSES_S[min(slot.failures, len(_PAUSES_S) - 1)]
        if not worker.ready and not worker.draining and not worker.lost:
            self._report(slot.name, f"No worker could be started on {slot.name}: {reason}")
        self._writer.send(WorkerRemoved(worker=worker.worker_id, reason=reason, lost=worker.lost))

    def _actor(self, node: Node) -> Any:
        gpu = node.gpus > 0
        config = self._config.worker.model_copy(
            update={"device": "cuda:0"} if gpu else {"device": "cpu", "threads": self._config.cpus_per_worker}
        )
        as_actor: Any = ray.remote  # its annotations lack concurrency groups
        actor_class = as_actor(
            num_gpus=1 if gpu else 0,
            num_cpus=0 if gpu else self._config.cpus_per_worker,
            max_restarts=0,
            max_task_retries=0,
            concurrency_groups={"deliver": 1, "poll": 1},
        )(WorkerActor)
        strategy = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
        arguments = (config.model_dump_json(), self._storage_secret, self._config.lease_s)
        return actor_class.options(scheduling_strategy=strategy).remote(*arguments)

    async def _send_lines(self, actor: Any, worker: _Worker) -> None:
        number = 0
        while True:
            line = await worker.lines.get()
            number += 1
            while True:
                try:
                    await actor.deliver.options(concurrency_group="deliver").remote(number, line)
                    break
                except ActorUnavailableError:
                    await asyncio.sleep(_RECONCILE_INTERVAL_S)

    async def _poll_lines(self, actor: Any, worker: _Worker, slot: _WorkerSlot) -> None:
        arrived = 0
        while True:
            try:
                total, lines = await actor.poll.options(concurrency_group="poll").remote(arrived)
            except ActorUnavailableError:
                await asyncio.sleep(_RECONCILE_INTERVAL_S)
                continue
            for line in lines[len(lines) - (total - arrived) :]:
                self._writer.send(Output(worker=worker.worker_id, content=line))
            arrived = total
            if not worker.ready and any(isinstance(from_worker.validate_json(line), Ready) for line in lines):
                worker.ready = True
                self._report(slot.name, None)

    def _report(self, subject: str, text: str | None) -> None:
        if text is not None or subject in self._problems:
            self._writer.send(Status(subject=subject, text=text))
        (self._problems.discard if text is None else self._problems.add)(subject)


def _last_line(error: BaseException) -> str:
    """Return the last line of an error: Ray's are pages long, and end with the reason."""
    lines: list[str] = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
