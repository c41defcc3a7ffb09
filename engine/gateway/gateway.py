"""The gateway between the main process and a Ray cluster.

It is a process because Ray ends a driver, without an exception, when the head has been unreachable for a minute. The
main process then starts another gateway, which reports the problem until the head is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys

import ray

from engine.gateway.head import ClusterUnavailable, LocalRayNode, check_reachable, compare_versions, connect
from engine.gateway.nodes import Node, NodeManager, read_nodes
from engine.gateway.protocol import Forward, GatewayConfig, Kill, Status, to_gateway
from engine.worker.process import MessageWriter, resident_bytes
from engine.worker.protocol import Heartbeat, Shutdown

log = logging.getLogger(__name__)

_POLL_S = 1.0
_HEAD_TIMEOUT_S = 5.0
_CONNECT_RETRY_S = 2.0
_SHUTDOWN_TIMEOUT_S = 3.0
_LINE_BYTES = 4 << 20


class Gateway:
    def __init__(self, config: GatewayConfig, secret: str | None, wire: MessageWriter) -> None:
        """`secret`: of the storage, for the workers."""
        self._config = config
        self._secret = secret
        self._wire = wire
        self._node: LocalRayNode | None = None
        self._begun = False
        self._trouble: str | None = None

    async def serve(self) -> int:
        """Until there is nothing more to obey; the exit code."""
        lines = asyncio.StreamReader(limit=_LINE_BYTES)
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
        beating = asyncio.create_task(self._send_heartbeats())
        listening = asyncio.create_task(lines.readline())  # before there are workers only the end can be said
        try:
            while not await self._reach():
                if self._begun:
                    return 1  # what Ray has begun in a process cannot be begun there again
                done, _ = await asyncio.wait([listening], timeout=_CONNECT_RETRY_S)
                if done:
                    return 0
            machines = NodeManager(self._config, self._secret, self._wire)
            looking = asyncio.create_task(self._watch_nodes(machines))
            while True:
                await asyncio.wait([listening, looking], return_when=asyncio.FIRST_COMPLETED)
                if looking.done():
                    looking.result()  # it ends by a defect only: start afresh
                if not self._handle_messages(await listening, machines):
                    return 0
                listening = asyncio.create_task(lines.readline())
        finally:
            beating.cancel()
            await self._stop()

    async def _reach(self) -> bool:
        """One try to become a part of the cluster."""
        address = self._config.address
        try:
            await asyncio.to_thread(check_reachable, address)
            await asyncio.to_thread(compare_versions, address)
            self._begun = True
            self._node = LocalRayNode(self._config) if self._config.own_node else None
            await asyncio.to_thread(connect, self._config, self._node)
        except ClusterUnavailable as error:
            self._send(str(error))
            return False
        self._trouble = None
        self._wire.send(Status(about="head", text=None))
        return True

    def _handle_messages(self, line: bytes, machines: NodeManager) -> bool:
        """Whether to go on."""
        if not line:
            return False
        message = to_gateway.validate_json(line)
        if isinstance(message, Forward):
            machines.tell(message.worker, message.words)
        elif isinstance(message, Kill):
            machines.drop(message.worker, "it was taken down")
        return not isinstance(message, Shutdown)

    async def _watch_nodes(self, machines: NodeManager) -> None:
        reading: asyncio.Task[list[Node]] | None = None
        while True:
            # While the head is away a question is not answered, and not asked again: each would hold a thread.
            reading = reading or asyncio.create_task(asyncio.to_thread(read_nodes))
            done, _ = await asyncio.wait([reading], timeout=_HEAD_TIMEOUT_S)
            error = reading.exception() if done else TimeoutError()
            if error is not None:
                log.warning("the head does not answer: %r", error)
                self._send(f"The Ray head at {self._config.address} does not answer any more.")
            else:
                self._send(None)
                machines.reconcile(reading.result())
            reading = None if done else reading
            await asyncio.sleep(_POLL_S)

    async def _send_heartbeats(self) -> None:
        while True:
            self._wire.send(Heartbeat(rss_bytes=resident_bytes()))
            await asyncio.sleep(self._config.heartbeat_s)

    def _send(self, trouble: str | None) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            self._wire.send(Status(about="head", text=trouble))

    async def _stop(self) -> None:
        """Actors that are not detached end with their driver."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.to_thread(ray.shutdown), _SHUTDOWN_TIMEOUT_S)
        if self._node is not None:
            await asyncio.to_thread(self._node.stop)
