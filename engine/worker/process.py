"""Parts of a worker or gateway process that do not need torch."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Protocol

from pydantic import SecretStr

from engine.process.cpus import default_threads
from engine.storage.local import LocalStorage
from engine.storage.object_store import open_storage
from engine.storage.storage import Storage
from engine.worker.protocol import SECRET_VARIABLE, Message, WorkerConfig

_ATTEMPT_THREADS = 2


class ByteSink(Protocol):
    """A binary stream that accepts whole lines."""

    def write(self, line: bytes, /) -> int | None: ...
    def flush(self) -> None: ...


class MessageWriter:
    """Write messages as lines, from any thread."""

    def __init__(self, out: ByteSink) -> None:
        self._out = out
        self._lock = threading.Lock()

    def send(self, message: Message) -> None:
        """Write one message. End the process if the reader is gone."""
        try:
            with self._lock:
                self._out.write(message.line())
                self._out.flush()
        except (BrokenPipeError, ValueError):
            os._exit(0)


def resident_bytes() -> int:
    """Return the resident memory of this process, or 0 if the system does not report it."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def open_worker_storage(config: WorkerConfig) -> Storage:
    """Open the storage of inputs and results.

    Removes the storage's secret from the environment, so that child processes do not inherit it.
    """
    settings, secret = config.storage, os.environ.pop(SECRET_VARIABLE, None)
    if settings is None:
        return LocalStorage(Path(config.data_dir))
    settings = settings.model_copy(update={"secret_access_key": SecretStr(secret) if secret else None})
    return open_storage(Path(config.data_dir), settings, patience_s=settings.patience_s)


def torch_threads(config: WorkerConfig) -> int:
    """Return the number of torch threads on a CPU; 0 lets torch choose."""
    return (config.threads or default_threads()) if config.device == "cpu" else 0


def attempt_threads(config: WorkerConfig) -> int:
    """Return the number of torch threads of each attempt; 0 lets torch choose.

    Beside a GPU, the attempts of a worker share the cores with their encoders.
    """
    return 0 if config.device == "cpu" else _ATTEMPT_THREADS
