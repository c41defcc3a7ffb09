"""A worker in a Ray actor: the `Worker` of a local process, with its messages passed by actor calls.

Messages are numbered in both directions, so that a call repeated after a broken connection has no effect.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from engine.gateway.scratch import create_scratch_dir
from engine.gateway.versions import versions
from engine.logs import configure
from engine.worker.process import MessageWriter, open_worker_storage
from engine.worker.protocol import SECRET_VARIABLE, WorkerConfig

log = logging.getLogger(__name__)

_POLL_TIMEOUT_S = 1.0


class ReplayBuffer:
    """Output lines, kept until the gateway has confirmed them."""

    def __init__(self, check: Callable[[], None] = lambda: None) -> None:
        """Create an empty buffer. `check` is called before every line."""
        self._check = check
        self._lines: deque[str] = deque()
        self._confirmed = 0  # lines removed from the front
        self._changed = threading.Condition()

    def write(self, line: bytes) -> int:
        self._check()
        with self._changed:
            self._lines.append(line.decode())
            self._changed.notify()
        return len(line)

    def flush(self) -> None:
        """Do nothing: lines are never held back."""

    def after(self, arrived: int, wait_s: float) -> tuple[int, list[str]]:
        """Return the number of all lines so far, and those after the first `arrived`.

        Waits up to `wait_s` for one.
        """
        with self._changed:
            while self._lines and self._confirmed < arrived:
                self._lines.popleft()
                self._confirmed += 1
            self._changed.wait_for(lambda: bool(self._lines), wait_s)
            return self._confirmed + len(self._lines), list(self._lines)


class WorkerActor:
    """The class of the Ray actor. `deliver` and `poll` run in separate threads."""

    def __init__(self, config: str, storage_secret: str | None, lease_s: float) -> None:
        """Open the device, which takes some seconds.

        `config` is a `WorkerConfig` as JSON, `storage_secret` the secret of its storage. The actor exits when it is not
        polled for `lease_s`.
        """
        from engine.worker.worker import Worker  # not at the top: the gateway must not import torch

        self._lease_s = lease_s
        self._polled_at = time.monotonic()
        self._received = 0
        self._input: queue.Queue[bytes] = queue.Queue()
        # An attempt sends a message before it publishes, so one that has lost its lease cannot publish.
        self._output = ReplayBuffer(self._check_lease)
        os.umask(0o077)
        parsed = WorkerConfig.model_validate_json(config)
        configure(parsed.log_level, json_lines=parsed.json_lines)
        cache_dir = Path(parsed.cache_dir).expanduser()  # "~" is the home folder on this machine
        parsed = parsed.model_copy(update={"cache_dir": str(cache_dir)})
        if parsed.clears_scratch:
            parsed = parsed.model_copy(update={"data_dir": str(create_scratch_dir(Path(parsed.data_dir).expanduser()))})
        if storage_secret is not None:
            os.environ[SECRET_VARIABLE] = storage_secret
        os.environ["TORCH_HOME"] = str(Path(parsed.cache_dir) / "torch")
        self._worker = Worker(parsed, MessageWriter(self._output), open_worker_storage(parsed))

    def versions(self) -> dict[str, str]:
        """Return the versions on this machine."""
        return versions()

    def start(self) -> None:
        """Start to handle messages."""
        self._polled_at = time.monotonic()
        threading.Thread(target=self._serve, name="serve", daemon=True).start()
        threading.Thread(target=self._watch_lease, name="lease", daemon=True).start()

    def deliver(self, number: int, line: str) -> None:
        """Pass line `number` to the worker, unless it has been delivered before."""
        if number > self._received:
            self._received = number
            self._input.put(line.encode())

    def poll(self, arrived: int) -> tuple[int, list[str]]:
        """Return the number of output lines so far, and those after the first `arrived`; wait up to a second."""
        self._polled_at = time.monotonic()
        return self._output.after(arrived, _POLL_TIMEOUT_S)

    def _serve(self) -> None:
        self._worker.serve(iter(self._input.get, b""))
        os._exit(0)

    def _watch_lease(self) -> None:
        while True:
            self._check_lease()
            time.sleep(1.0)

    def _check_lease(self) -> None:
        """Exit if the lease has expired: the attempts then run elsewhere, and the device must be free."""
        if time.monotonic() - self._polled_at > self._lease_s:
            log.error("not polled for %.0f s: exiting", self._lease_s)
            os._exit(1)
