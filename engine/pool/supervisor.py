"""Supervise a child process that writes lines: restart it when it ends, kill it when it is silent."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.clock import pause_overrun_s
from engine.worker.protocol import Message, Shutdown

log = logging.getLogger(__name__)

_LINE_BYTES = 4 << 20
_RESTART_PAUSES_S = (0.1, 1.0, 5.0, 15.0, 30.0)
_STABLE_S = 60.0
_POLL_S = 1.0


@dataclass(frozen=True)
class SupervisorCallbacks:
    """Callbacks of a supervisor, called in the event loop."""

    line: Callable[[bytes], None]
    end: Callable[[], None]  # the process ended; not called after `stop`
    silence_timeout_s: Callable[[], float]


class Supervisor:
    """A child process, across restarts."""

    def __init__(
        self, name: str, command: Sequence[str], environment: dict[str, str], callbacks: SupervisorCallbacks
    ) -> None:
        self.name = name
        self._command = command
        self._environment = environment
        self._callbacks = callbacks
        self._process: asyncio.subprocess.Process | None = None
        self._last_line_at = 0.0
        self._task: asyncio.Task[None] | None = None
        self._killed = False
        self.closing = False
        self.deaths = 0

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    @property
    def was_oom_killed(self) -> bool:
        """Whether the process was ended by a SIGKILL that was not ours, as when memory runs out."""
        code = self._process.returncode if self._process is not None else None
        return code == -signal.SIGKILL and not self._killed

    def start(self) -> None:
        """Start the process, and restart it until `stop`."""
        self._task = asyncio.create_task(self._run_forever(), name=self.name)

    async def stop(self, timeout_s: float = 1.0) -> None:
        """Send `shutdown`; kill the process if it does not end within `timeout_s`."""
        self.closing = True
        self.send(Shutdown())
        process = self._process
        if process is not None:
            try:
                await asyncio.wait_for(process.wait(), timeout_s)
            except TimeoutError:
                self.kill()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def kill(self) -> None:
        """Kill the process if it runs."""
        if self.pid is not None:
            self._killed = True
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def send(self, message: Message) -> None:
        """Send a message; ignored if the process is gone."""
        if self._process is not None and self._process.stdin is not None and self.pid is not None:
            with contextlib.suppress(OSError, RuntimeError):
                self._process.stdin.write(message.line())

    async def _run_forever(self) -> None:
        failures = 0
        while not self.closing:
            started_at = time.monotonic()
            try:
                await self._run_once()
            except Exception:
                log.exception("%s failed", self.name)
                self.kill()
            if self.closing:
                return
            self.deaths += 1
            self._callbacks.end()
            failures = 0 if time.monotonic() - started_at > _STABLE_S else failures + 1
            pause_s = _RESTART_PAUSES_S[min(failures, len(_RESTART_PAUSES_S) - 1)]
            code = self._process.returncode if self._process is not None else None
            log.warning("%s exited with code %s; restarting in %.1f s", self.name, code, pause_s)
            await asyncio.sleep(pause_s)

    async def _run_once(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LINE_BYTES,
            env=self._environment,
            cwd=Path(__file__).parents[2],
        )
        self._last_line_at, self._killed = time.monotonic(), False
        watch = asyncio.create_task(self._watch_silence())
        try:
            assert self._process.stdout is not None
            while line := await self._process.stdout.readline():
                self._last_line_at = time.monotonic()
                self._callbacks.line(line)
            await self._process.wait()
        finally:
            watch.cancel()
            self.kill()
            await self._process.wait()

    async def _watch_silence(self) -> None:
        while True:
            timeout_s, began = self._callbacks.silence_timeout_s(), time.monotonic()
            pause_s = min(_POLL_S, timeout_s / 4)
            await asyncio.sleep(pause_s)
            self._last_line_at += pause_overrun_s(time.monotonic() - began, pause_s)
            if time.monotonic() - self._last_line_at > timeout_s:
                log.error("%s was silent for %.0f s: killing it", self.name, timeout_s)
                self.kill()
                return
