"""A worker inside a Ray actor: `engine.worker.worker.Worker` as in a local process, but its lines travel by calls.

Both directions are numbered, so that a call that is repeated after a broken connection changes nothing.
"""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from engine.gateway.scratch import create_scratch_dir
from engine.gateway.versions import versions
from engine.worker.process import MessageWriter, storage_of
from engine.worker.protocol import SECRET_VARIABLE, WorkerConfig

log = logging.getLogger(__name__)

_LISTEN_S = 1.0


class ReplayBuffer:
    """Lines on their way out, kept until they are known to have arrived."""

    def __init__(self, check: Callable[[], None] = lambda: None) -> None:
        """`check` is called before every line."""
        self._check = check
        self._lines: deque[str] = deque()
        self._gone = 0  # lines before the first in `_lines`
        self._news = threading.Condition()

    def write(self, line: bytes) -> int:
        self._check()
        with self._news:
            self._lines.append(line.decode())
            self._news.notify()
        return len(line)

    def flush(self) -> None:
        """Nothing waits anywhere."""

    def after(self, arrived: int, wait_s: float) -> tuple[int, list[str]]:
        """The lines that follow the first `arrived`, and how many there are in all; waits for one."""
        with self._news:
            while self._lines and self._gone < arrived:
                self._lines.popleft()
                self._gone += 1
            self._news.wait_for(lambda: bool(self._lines), wait_s)
            return self._gone + len(self._lines), list(self._lines)


class WorkerActor:
    """Made into an actor by the gateway. `tell` and `hear` run in threads of their own."""

    def __init__(self, config: str, secret: str | None, lease_s: float) -> None:
        """`config` is a `WorkerConfig` as JSON, `secret` that of its storage. Imports torch and opens the device; that
        takes some seconds."""
        from engine.worker.worker import Worker  # the gateway has this class too, and must not import torch

        logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
        self._lease_s = lease_s
        self._heard_at = time.monotonic()
        self._told = 0
        self._in: queue.Queue[bytes] = queue.Queue()
        # Before an attempt publishes it says so: one that was given up meanwhile gets no further than that.
        self._out = ReplayBuffer(self._end_with_lease)
        os.umask(0o077)
        parsed = WorkerConfig.model_validate_json(config)
        cache_dir = Path(parsed.cache_dir).expanduser()  # a "~" is the home folder on this machine
        parsed = parsed.model_copy(update={"cache_dir": str(cache_dir)})
        if parsed.clears_scratch:
            parsed = parsed.model_copy(update={"data_dir": str(create_scratch_dir(Path(parsed.data_dir).expanduser()))})
        if secret is not None:
            os.environ[SECRET_VARIABLE] = secret
        os.environ["TORCH_HOME"] = str(Path(parsed.cache_dir) / "torch")
        self._worker = Worker(parsed, MessageWriter(self._out), storage_of(parsed))

    def versions(self) -> dict[str, str]:
        return versions()

    def begin(self) -> None:
        """Work from now on."""
        self._heard_at = time.monotonic()
        threading.Thread(target=self._serve, name="serve", daemon=True).start()
        threading.Thread(target=self._watch_lease, name="lease", daemon=True).start()

    def tell(self, number: int, line: str) -> None:
        """The worker's next line, the `number`th; one that was told already is not told again."""
        if number > self._told:
            self._told = number
            self._in.put(line.encode())

    def hear(self, arrived: int) -> tuple[int, list[str]]:
        """What the worker has said after its first `arrived` lines; waits up to a second for something."""
        self._heard_at = time.monotonic()
        return self._out.after(arrived, _LISTEN_S)

    def _serve(self) -> None:
        self._worker.serve(iter(self._in.get, b""))
        os._exit(0)

    def _watch_lease(self) -> None:
        while True:
            self._end_with_lease()
            time.sleep(1.0)

    def _end_with_lease(self) -> None:
        """Its attempts are given to others by then, and the device should be free."""
        if time.monotonic() - self._heard_at > self._lease_s:
            log.error("nobody has listened for %.0f s: this worker ends", self._lease_s)
            os._exit(1)
