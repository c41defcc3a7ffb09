"""The child process that talks to Ray. `python -m engine.cluster.gateway '<GatewayConfig as JSON>'`

The bot's own process never does: a Ray driver is ended by Ray, without an exception, when the head has been away for a
minute. This one is then simply started again, and says what is wrong until the head is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys

from engine.cluster.words import Drop, GatewayConfig, Tell, Trouble, to_gateway
from engine.protocol import SECRET_VARIABLE, Heartbeat, Shutdown
from engine.worker import Wire, die_with_parent, resident_bytes

log = logging.getLogger("engine.cluster.gateway")

_LOOK_S = 1.0
_HEAD_TIMEOUT_S = 5.0
_KNOCK_AGAIN_S = 2.0
_GOODBYE_S = 3.0


async def _beat(wire: Wire, every_s: float) -> None:
    while True:
        wire.send(Heartbeat(rss_bytes=resident_bytes()))
        await asyncio.sleep(every_s)


async def _serve(config: GatewayConfig, secret: str | None, wire: Wire) -> None:
    """Never returns: threads in which Ray waits for a lost head do not hold the process back."""
    beating = asyncio.create_task(_beat(wire, config.heartbeat_s))
    lines = asyncio.StreamReader(limit=4 << 20)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    code = 1
    try:
        code = await _connected(config, secret, wire, lines)
    except Exception:
        log.exception("the gateway ends")
    beating.cancel()
    os._exit(code)


async def _connected(config: GatewayConfig, secret: str | None, wire: Wire, lines: asyncio.StreamReader) -> int:
    from engine.cluster.head import NotYet, OwnNode, compare_versions, connect, knock  # imports Ray

    told: str | None = None
    listening = asyncio.create_task(lines.readline())  # nothing can be said before there are workers, but the end
    node: OwnNode | None = None
    while True:
        try:
            await asyncio.to_thread(knock, config.address)
            await asyncio.to_thread(compare_versions, config.address)
            node = OwnNode(config) if config.own_node else None
            await asyncio.to_thread(connect, config, node)
            break
        except NotYet as error:
            if str(error) != told:
                told = str(error)
                wire.send(Trouble(about="head", text=told))
        if node is not None:  # what Ray has begun in this process cannot be begun again
            node.stop()
            await asyncio.sleep(_KNOCK_AGAIN_S)
            return 1
        done, _ = await asyncio.wait([listening], timeout=_KNOCK_AGAIN_S)
        if done:
            return 0
    wire.send(Trouble(about="head", text=None))
    try:
        return await _attend(config, secret, wire, lines, listening)
    finally:
        await _leave(node)


async def _attend(
    config: GatewayConfig, secret: str | None, wire: Wire, lines: asyncio.StreamReader, listening: asyncio.Task[bytes]
) -> int:
    from engine.cluster.machines import Machines

    machines = Machines(config, secret, wire)
    looking = asyncio.create_task(_look(config, machines, wire))
    while line := await listening:
        message = to_gateway.validate_json(line)
        if isinstance(message, Tell):
            machines.tell(message.worker, message.words)
        elif isinstance(message, Drop):
            machines.drop(message.worker, "it was taken down")
        elif isinstance(message, Shutdown):
            break
        listening = asyncio.create_task(lines.readline())
    looking.cancel()
    return 0


async def _look(config: GatewayConfig, machines: object, wire: Wire) -> None:
    from engine.cluster.machines import Machines, read_nodes

    assert isinstance(machines, Machines)
    away = False
    while True:
        try:
            nodes = await asyncio.wait_for(asyncio.to_thread(read_nodes), _HEAD_TIMEOUT_S)
        except Exception as error:
            log.warning("the head does not answer: %r", error)
            if not away:
                wire.send(Trouble(about="head", text=f"The Ray head at {config.address} does not answer any more."))
            away = True
        else:
            if away:
                wire.send(Trouble(about="head", text=None))
            away = False
            machines.settle(nodes)
        await asyncio.sleep(_LOOK_S)


async def _leave(node: object) -> None:
    """Actors that are not detached end with their driver."""
    import ray

    from engine.cluster.head import OwnNode

    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.to_thread(ray.shutdown), _GOODBYE_S)
    if isinstance(node, OwnNode):
        await asyncio.to_thread(node.stop)


def main() -> None:
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    config = GatewayConfig.model_validate_json(sys.argv[1])
    secret = os.environ.pop(SECRET_VARIABLE, None)  # not for our children
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    asyncio.run(_serve(config, secret, Wire(out)))


if __name__ == "__main__":
    main()
