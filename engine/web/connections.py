"""Limits of connections: how many are open, and how long one may wait for a request or for its reader."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import random
import resource
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import StreamReader, web
from aiohttp.http_exceptions import HttpProcessingError

from engine.errors import InternalError, StemifyError
from engine.web.access import Access, owner_of, peer_address
from engine.web.errors import BadRequest, HeadTooLarge, HeadTooSlow, error_response, http_error_response, response_bytes
from engine.web.headers import set_common_headers

log = logging.getLogger(__name__)

_Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

LOGGED = web.RequestKey("logged", bool)
"""Set on a request whose log line was written here."""
_HEAD_BYTES = 64 * 1024
_HEAD_SPREAD = 0.9
_FRAMING_BYTES = 384 * 1024  # more than one read of the socket, of which the parser may have seen only a part
_FRAMING_RATIO = 1.25
_OPEN_FILES = 65536
_ACCEPTS_AT_ONCE = 16
_BACKLOG = 128
_OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_WARNING_INTERVAL_S = 60.0


@dataclass(frozen=True)
class ConnectionLimits:
    """`idle_s` is the longest wait for a request, and for a reader to take what was sent."""

    in_all: int
    per_address: int
    head_s: float
    idle_s: float


class Connections:
    """The open connections. When there are too many, one that waits for a request makes room for a new one."""

    def __init__(self, limits: ConnectionLimits, access: Access) -> None:
        self.limits = limits
        self._access = access
        # A connection may need a second descriptor for a file; the rest is for songs, workers and the database.
        self._in_all = max(1, min(limits.in_all, _raise_open_files() // 4))
        self._groups: dict[Connection, str | None] = {}
        self._counts: Counter[str] = Counter()
        self._warned_at = -_WARNING_INTERVAL_S

    def add(self, connection: Connection, transport: asyncio.BaseTransport) -> bool:
        """Count a new connection, closing an idle one if necessary. Return False if there is no capacity."""
        address = peer_address(transport)
        group = None if self._access.is_proxy(address) else owner_of(address)
        if group is not None and self._counts[group] >= self.limits.per_address:
            fits = self._make_room([each for each, its_group in self._groups.items() if its_group == group])
        else:
            fits = len(self._groups) < self._in_all or self._make_room(list(self._groups))
        if not fits:
            self._warn(str(address), connection.loop_time)
            return False
        self._groups[connection] = group
        if group is not None:
            self._counts[group] += 1
        return True

    def remove(self, connection: Connection) -> None:
        group = self._groups.pop(connection, None)
        if group is not None:
            self._counts[group] -= 1
            if not self._counts[group]:
                del self._counts[group]

    def _make_room(self, candidates: list[Connection]) -> bool:
        """Close a connection that waits for a request: one that never sent any first, then the one idle longest."""
        waiting = [each for each in candidates if each.is_waiting]
        if not waiting:
            return False
        longest = min(waiting, key=lambda each: (each.has_sent_request, each.last_byte_at))
        self.remove(longest)
        longest.abort()
        return True

    def _warn(self, address: str, now: float) -> None:
        if now - self._warned_at >= _WARNING_INTERVAL_S:
            self._warned_at = now
            log.warning(
                "too many connections (%d open), refused one from %s; the limits are web.connections and "
                "web.connections_per_address", len(self._groups), address,
            )  # fmt: skip


def _raise_open_files() -> int:
    """Raise the soft limit of open files as far as the hard one allows, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return wanted
    return wanted if soft == resource.RLIM_INFINITY else soft


class Connection(web.RequestHandler):
    """aiohttp's connection with limits, and with errors in the API's shape where aiohttp answers itself."""

    def __init__(self, manager: web.Server, connections: Connections, **options: Any) -> None:
        super().__init__(manager, **options)
        self._connections = connections
        self._limits = connections.limits
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._discards_input = False
        self._body: StreamReader | None = None
        self._body_received_bytes = 0
        self.has_sent_request = False
        self.last_byte_at = self.loop_time

    @property
    def loop_time(self) -> float:
        return self._loop.time()

    @property
    def is_waiting(self) -> bool:
        """Whether the connection has no request in progress."""
        return self._waiter is not None and not self._waiter.done()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        if not self._connections.add(self, transport):
            self.transport = transport
            self.abort()
            return
        super().connection_made(transport)
        listening: socket.socket | None = transport.get_extra_info("socket")
        if listening is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            # Closes a connection whose peer reads nothing, during sendfile too.
            with contextlib.suppress(OSError):
                listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(self._limits.idle_s * 1000))

    def connection_lost(self, exc: BaseException | None) -> None:
        self._connections.remove(self)
        self._stop_head_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self.last_byte_at = self.loop_time
        if self._discards_input:
            return
        super().data_received(data)
        if not self.is_waiting:
            self.has_sent_request = True
            self._stop_head_timer()
            self._check_framing(len(data))
            return
        self._head_bytes += len(data)
        if self._head_bytes > _HEAD_BYTES:
            self._refuse(HeadTooLarge())
        elif data and self._head_timer is None:
            # Connections that were opened at once are closed one after another: each takes some 0.3 ms.
            patience_s = self._limits.head_s * random.uniform(_HEAD_SPREAD, 1)  # noqa: S311
            self._head_timer = self._loop.call_later(patience_s, self._refuse, HeadTooSlow())

    def _check_framing(self, received_bytes: int) -> None:
        """Stop reading a chunked body that is mostly framing: tiny chunks or chunk extensions cost time each."""
        body = self._current_request.content if self._current_request is not None else None
        if body is not self._body:
            self._body, self._body_received_bytes = body, 0
        self._body_received_bytes += received_bytes
        if body is not None and self._body_received_bytes > _FRAMING_BYTES + body.total_bytes * _FRAMING_RATIO:
            self.close()  # after the response
            body.feed_eof()

    def _stop_head_timer(self) -> None:
        self._head_bytes = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, error: StemifyError) -> None:
        """Answer a request whose head is not complete, and close."""
        if self.is_waiting and self.transport is not None and not self._discards_input:
            log.info("%s %s", self._address(), error.code)
            self.transport.write(response_bytes(error))
            self.transport.write_eof()
            self._discards_input = True  # closed with input unread, the client might lose the answer
            self._loop.call_later(self._lingering_time, self.abort)

    def abort(self) -> None:
        """Close the connection at once."""
        if self.transport is not None:
            self.transport.abort()
        self.force_close()

    def _address(self) -> str:
        return str(peer_address(self.transport) or "-")

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        if not request.content.is_eof():
            self._discards_input = True  # the connection is closed after this response, so the rest is not parsed
        return await super().finish_response(request, resp, start_time)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the response to a malformed request or to an exception outside the middlewares.

        Raises `ConnectionError` if the client disconnected or the response had begun.
        """
        if isinstance(exc, ConnectionError):
            raise exc
        error: StemifyError = InternalError()
        if isinstance(exc, HttpProcessingError):  # its text quotes the request
            error = BadRequest("The HTTP request is not valid.")
            log.info("%s malformed request: %s", self._address(), type(exc).__name__)
        else:
            log.error("%s request failed", self._address(), exc_info=exc)
        request[LOGGED] = True
        if request.writer.output_size > 0:
            raise ConnectionResetError("the response had begun")
        response = error_response(error)
        set_common_headers(response.headers)
        response.force_close()
        return response


def _with_expectations(handle: _Handle) -> _Handle:
    """Answer an unknown `Expect` header like other errors: aiohttp refuses it before any middleware."""

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await handle(request)
        except web.HTTPExpectationFailed as error:
            return http_error_response(error)

    return handler


class LimitedServer(web.Server):
    """Makes a `Connection` for each connection."""

    def __init__(self, server: web.Server, connections: Connections, **options: Any) -> None:
        super().__init__(_with_expectations(server.request_handler), request_factory=server.request_factory, **options)
        self._open = connections

    def __call__(self) -> web.RequestHandler:
        return Connection(self, self._open, loop=self._loop, **self._kwargs)


class LimitedRunner(web.AppRunner):
    """Runs an application with limits of its connections."""

    def __init__(self, app: web.Application, connections: Connections, **options: Any) -> None:
        super().__init__(app, **options)
        self._open = connections

    async def _make_server(self) -> web.Server:
        log_failed_accepts(asyncio.get_running_loop())
        return LimitedServer(await super()._make_server(), self._open, **self._kwargs)


async def start_listening(runner: web.AppRunner, listening: socket.socket) -> None:
    """Serve on a bound socket, accepting few connections at a time so that a burst does not hold the event loop."""
    await web.SockSite(runner, listening, backlog=_ACCEPTS_AT_ONCE).start()
    listening.listen(_BACKLOG)  # asyncio uses one number for both


def log_failed_accepts(loop: asyncio.AbstractEventLoop) -> None:
    """Log at most one line a minute while connections cannot be accepted, in place of 128 tracebacks a second."""
    default_handler = loop.get_exception_handler() or type(loop).default_exception_handler
    warned_at = -_WARNING_INTERVAL_S

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        nonlocal warned_at
        error = context.get("exception")
        if not (isinstance(error, OSError) and error.errno in _OUT_OF_RESOURCES and "accept" in context["message"]):
            default_handler(loop, context)
        elif loop.time() - warned_at >= _WARNING_INTERVAL_S:
            warned_at = loop.time()
            log.error("cannot accept connections: %s; allow this process more open files (ulimit -n)", error.strerror)

    loop.set_exception_handler(handle)
