"""The child process that owns a device. `python -m engine.worker.worker '<WorkerConfig as JSON>'`

It takes several attempts at once (one decodes, one is separated, one is encoded) and speaks the lines of
`engine.worker.protocol`. It ends when it is told to, when its input ends, or when its parent dies.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pydantic import SecretStr

from engine.jobs.job import Stage
from engine.logs import configure
from engine.process.cpus import default_threads
from engine.storage.object_store import open_storage
from engine.worker.malloc import trim_heap, tune_malloc
from engine.worker.protocol import (
    SECRET_VARIABLE,
    AttemptSpec,
    Cancel,
    Failed,
    Heartbeat,
    Message,
    ModelState,
    Progress,
    Ready,
    Shutdown,
    Start,
    WorkerConfig,
    to_worker,
)

if TYPE_CHECKING:  # imported late, with torch
    from engine.worker.attempt import Attempt

from engine.process.confinement import die_with_parent, forbid_inspection
from engine.storage.local import Storage

log = logging.getLogger("engine.worker.worker")

_PROGRESS_INTERVAL_S = 0.5


class ByteSink(Protocol):
    """Where lines go."""

    def write(self, line: bytes, /) -> int | None: ...
    def flush(self) -> None: ...


class MessageWriter:
    """Messages out, one line each, from any thread."""

    def __init__(self, out: ByteSink) -> None:
        self._out = out
        self._lock = threading.Lock()

    def send(self, message: Message) -> None:
        try:
            with self._lock:
                self._out.write(message.line())
                self._out.flush()
        except (BrokenPipeError, ValueError):
            os._exit(0)  # nobody listens any more


class ThrottledProgress:
    """An attempt's progress, sent when the stage changes or a quarter of a second has passed."""

    def __init__(self, wire: MessageWriter, spec: AttemptSpec) -> None:
        self._wire = wire
        self._spec = spec
        self._stage: Stage | None = None
        self._sent_at = 0.0
        self._on_cpu = False

    def on_cpu(self) -> None:
        """From now on it goes more slowly than was to be expected of the device."""
        self._on_cpu = True

    def __call__(self, stage: Stage, fraction: float) -> None:
        now = time.monotonic()
        if stage is self._stage and now - self._sent_at < _PROGRESS_INTERVAL_S:
            return
        self._stage, self._sent_at = stage, now
        fraction = min(1.0, max(0.0, fraction))
        self._wire.send(
            Progress(
                job_id=self._spec.job_id,
                attempt=self._spec.attempt,
                stage=stage,
                fraction=fraction,
                on_cpu=self._on_cpu,
            )
        )


class Worker:
    def __init__(self, config: WorkerConfig, wire: MessageWriter, storage: Storage) -> None:
        """Imports torch and opens the device; that takes a second or two."""
        from engine.separation.models.library import ModelLibrary
        from engine.separation.native.library import NativeLibrary
        from engine.separation.ops.device import device_is_lost, device_memory_bytes, device_name, use_threads
        from engine.separation.schedule.batcher import Batcher
        from engine.worker import attempt

        self._new_attempt = attempt.Attempt
        self._raised_as_ours = attempt.to_stemify_error
        self._device_memory_bytes = device_memory_bytes
        self._device_is_lost = device_is_lost
        self._config = config
        self._wire = wire
        self._storage = storage
        self._library = ModelLibrary(
            models_dir=Path(config.models_dir) if config.models_dir else None,
            cache_dir=Path(config.cache_dir),
            memory_budget_bytes=config.model_memory_bytes,
        )
        use_threads(threads_of(config))
        kernels = (
            NativeLibrary(Path(config.cache_dir) / "kernels") if config.compile and config.device == "cpu" else None
        )
        self._kernels = kernels
        self._batcher = Batcher(config.device, precision=config.precision, kernels=kernels)
        self._name = device_name(config.device)
        self._loader = ThreadPoolExecutor(4, thread_name_prefix="model")
        self._running: dict[tuple[str, int], Attempt] = {}
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(max_workers=64, thread_name_prefix="attempt")

    def serve(self, lines: Iterable[bytes]) -> None:
        """Obey until the input ends."""
        self._wire.send(Ready(device=self._config.device, device_name=self._name, models=self._model_states()))
        threading.Thread(target=self._send_heartbeats, name="heartbeat", daemon=True).start()
        for line in lines:
            message = to_worker.validate_json(line)
            if isinstance(message, Start):
                self._start(message.spec)
            elif isinstance(message, Cancel):
                with self._lock:
                    attempt = self._running.get((message.job_id, message.attempt))
                if attempt is not None:
                    attempt.cancelled.set()
            elif isinstance(message, Shutdown):
                break
        with self._lock:
            for attempt in self._running.values():
                attempt.cancelled.set()

    def close(self) -> None:
        """End what would outlast the process: a build, and the marker of a first use of the kernels."""
        if self._kernels is not None:
            self._kernels.close()

    def _model_states(self) -> tuple[ModelState, ...]:
        found = self._library.states()
        return tuple(ModelState(name=each.name, state=each.state, reason=each.reason) for each in found)

    def _start(self, spec: AttemptSpec) -> None:
        progress = ThrottledProgress(self._wire, spec)
        attempt = self._new_attempt(
            spec, self._config, self._storage, self._library, self._loader, self._batcher, progress, progress.on_cpu
        )
        with self._lock:
            self._running[spec.job_id, spec.attempt] = attempt
        self._threads.submit(self._run, attempt)

    def _run(self, attempt: Attempt) -> None:
        spec: AttemptSpec = attempt.spec
        try:
            answer: Message = attempt.run()
        except BaseException as error:  # whatever it was, the parent must hear of it
            if self._device_is_lost(error):
                log.critical("the device is lost: %s", error)
                os._exit(1)  # nothing works on it any more in this process; the parent starts another
            ours = self._raised_as_ours(error)
            if ours is not error:
                log.error("job %s attempt %s broke", spec.job_id, spec.attempt, exc_info=error)
            answer = Failed(
                job_id=spec.job_id, attempt=spec.attempt, code=ours.code, message=ours.message, detail=ours.detail
            )
        finally:
            if self._config.clears_scratch:
                shutil.rmtree(self._storage.local_path(spec.scratch_key), ignore_errors=True)
            with self._lock:
                del self._running[spec.job_id, spec.attempt]
                is_idle = not self._running
        self._wire.send(answer)
        if is_idle:
            trim_heap()

    def _send_heartbeats(self) -> None:
        while True:
            self._wire.send(
                Heartbeat(rss_bytes=resident_bytes(), device_bytes=self._device_memory_bytes(self._config.device))
            )
            time.sleep(self._config.heartbeat_s)


def resident_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def storage_of(config: WorkerConfig) -> Storage:
    """Where the worker's songs lie and its stems go. Takes the secret out of the environment, so that no child of
    ours has it."""
    settings, secret = config.storage, os.environ.pop(SECRET_VARIABLE, None)
    if settings is None:
        return Storage(Path(config.data_dir))
    settings = settings.model_copy(update={"secret_access_key": SecretStr(secret) if secret else None})
    return open_storage(Path(config.data_dir), settings, patience_s=settings.patience_s)


def threads_of(config: WorkerConfig) -> int:
    """Threads of torch on a CPU; 0: as many as torch chooses."""
    return (config.threads or default_threads()) if config.device == "cpu" else 0


def main() -> None:
    die_with_parent()
    os.umask(0o077)
    forbid_inspection()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches the whole group; the parent decides
    config = WorkerConfig.model_validate_json(sys.argv[1])
    # The protocol keeps the true stdout; whatever prints by mistake goes to stderr, which is the log.
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    configure("INFO", json_lines=config.json_lines)
    tune_malloc()
    if threads := threads_of(config):
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    try:
        worker = Worker(config, MessageWriter(out), storage_of(config))
    except (RuntimeError, AssertionError) as error:  # torch, of a GPU that went away or a driver that changed
        log.critical("the device %s cannot be opened: %s", config.device, f"{error}".partition("\n")[0])
        os._exit(1)
    worker.serve(sys.stdin.buffer)
    worker.close()
    os._exit(0)  # threads deep in native code do not hold the process back


if __name__ == "__main__":
    main()
