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
    """Connect to the head, start workers on its nodes, and pass messages to and from them."""

    def __init__(self, config: GatewayConfig, storage_secret: str | None, writer: MessageWriter) -> None:
        self._config = config
        self._storage_secret = storage_secret
        self._writer = writer
        self._node: LocalRayNode | None = None
        self._ray_started = False
        self._problem: str | None = None

    async def serve(self) -> int:
        """Serve until `shutdown` or the end of the input; return the exit code."""
        lines = asyncio.StreamReader(limit=_LINE_BYTES)
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
        heartbeats = asyncio.create_task(self._send_heartbeats())
        next_line = asyncio.create_task(
            lines.readline()
        )  # until there are workers, only `shutdown` or the end of the input
        try:
            while not await self._connect():
                if self._ray_started:
                    return 1  # Ray cannot be started twice in one process
                done, _ = await asyncio.wait([next_line], timeout=_CONNECT_RETRY_S)
                if done:
                    return 0
            nodes = NodeManager(self._config, self._storage_secret, self._writer)
            watch = asyncio.create_task(self._watch_nodes(nodes))
            while True:
                await asyncio.wait([next_line, watch], return_when=asyncio.FIRST_COMPLETED)
                if watch.done():
                    watch.result()  # it ends only by a bug: raise, and let the parent start another gateway
                if not self._handle_messages(await next_line, nodes):
                    return 0
                next_line = asyncio.create_task(lines.readline())
        finally:
            heartbeats.cancel()
            await self._stop()

    async def _connect(self) -> bool:
        """Try once to join the cluster; return whether it worked."""
        address = self._config.address
        try:
            await asyncio.to_thread(check_reachable, address)
            await asyncio.to_thread(compare_versions, address)
            self._ray_started = True
            self._node = LocalRayNode(self._config) if self._config.own_node else None
            await asyncio.to_thread(connect, self._config, self._node)
        except ClusterUnavailable as error:
            self._report(str(error))
            return False
        self._problem = None
        self._writer.send(Status(subject="head", text=None))
        return True

    def _handle_messages(self, line: bytes, nodes: NodeManager) -> bool:
        """Handle one line; return False at the end."""
        if not line:
            return False
        message = to_gateway.validate_json(line)
        if isinstance(message, Forward):
            nodes.forward(message.worker, message.content)
        elif isinstance(message, Kill):
            nodes.kill(message.worker, "it was killed")
        return not isinstance(message, Shutdown)

    async def _watch_nodes(self, nodes: NodeManager) -> None:
        reading: asyncio.Task[list[Node]] | None = None
        while True:
            # One query at a time: while the head is away, each would block a thread.
            reading = reading or asyncio.create_task(asyncio.to_thread(read_nodes))
            done, _ = await asyncio.wait([reading], timeout=_HEAD_TIMEOUT_S)
            error = reading.exception() if done else TimeoutError()
            if error is not None:
                log.warning("the head does not answer: %r", error)
                self._report(f"The Ray head at {self._config.address} does not answer.")
            else:
                self._report(None)
                nodes.reconcile(reading.result())
            reading = None if done else reading
            await asyncio.sleep(_POLL_S)

    async def _send_heartbeats(self) -> None:
        while True:
            self._writer.send(Heartbeat(rss_bytes=resident_bytes()))
            await asyncio.sleep(self._config.heartbeat_s)

    def _report(self, problem: str | None) -> None:
        if problem != self._problem:
            self._problem = problem
            self._writer.send(Status(subject="head", text=problem))

    async def _stop(self) -> None:
        """Disconnect from Ray, which ends the actors, and stop the local node."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.to_thread(ray.shutdown), _SHUTDOWN_TIMEOUT_S)
        if self._node is not None:
            await asyncio.to_thread(self._node.stop)
