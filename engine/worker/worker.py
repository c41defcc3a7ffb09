"""The worker of one device: several attempts at once, by the messages of `engine.worker.protocol`.

While one attempt decodes, another is separated and a third is encoded. A worker ends on `shutdown`, at the end of its
input, or when its parent dies.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from engine.errors import StemifyError
from engine.jobs.job import Stage
from engine.jobs.models import add_own_models
from engine.separation.cuda.precision import resolve_precision
from engine.separation.models.library import ModelLibrary
from engine.separation.native.library import NativeLibrary
from engine.separation.ops.device import device_is_lost, device_memory_bytes, device_name, use_threads
from engine.separation.schedule.batcher import Batcher
from engine.separation.schedule.self_test import fault_of
from engine.storage.storage import Storage
from engine.worker.attempt import Attempt, to_stemify_error
from engine.worker.comparison import ComparisonAttempt
from engine.worker.malloc import trim_heap
from engine.worker.process import MessageWriter, attempt_threads, resident_bytes, torch_threads
from engine.worker.protocol import (
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
from engine.worker.song_attempt import SongAttempt

log = logging.getLogger(__name__)

_PROGRESS_INTERVAL_S = 0.5
_NEXT_TEST_S = 900.0  # a lost GPU may come back
_TEST_MODEL = "mini"  # its weights are in the package


class ThrottledProgress:
    """Send an attempt's progress when the stage changes or `_PROGRESS_INTERVAL_S` has passed."""

    def __init__(self, writer: MessageWriter, spec: AttemptSpec) -> None:
        self._writer = writer
        self._spec = spec
        self._stage: Stage | None = None
        self._sent_at = 0.0
        self._is_on_cpu = False

    def on_cpu(self) -> None:
        """Report from now on that the CPU has taken over."""
        self._is_on_cpu = True

    def __call__(self, stage: Stage, fraction: float) -> None:
        now = time.monotonic()
        if stage is self._stage and now - self._sent_at < _PROGRESS_INTERVAL_S:
            return
        self._stage, self._sent_at = stage, now
        fraction = min(1.0, max(0.0, fraction))
        self._writer.send(
            Progress(
                job_id=self._spec.job_id,
                attempt=self._spec.attempt,
                stage=stage,
                fraction=fraction,
                on_cpu=self._is_on_cpu,
            )
        )


def usable_device(config: WorkerConfig, library: ModelLibrary) -> tuple[WorkerConfig, str | None]:
    """Return the config with the CPU in place of a GPU that fails its test, or with a precision that passes it.

    The second value is the fault, if there is one.
    """
    if config.device == "cpu":
        return config, None
    try:
        model = library.load_steps(_TEST_MODEL)[0]
    except StemifyError as error:  # other models may work
        log.error("%s is used without a test: %s", config.device, error.message)
        return config, None
    if fault := fault_of(config.device, model):
        log.error("%s is not used, because %s; the CPU takes its place", config.device, fault)
        return config.model_copy(update={"device": "cpu"}), fault
    precision = resolve_precision(config.precision, torch.device(config.device))
    if fault := fault_of(config.device, model, precision):
        log.error("%s computes in single precision, because %s in %s", config.device, fault, precision)
        return config.model_copy(update={"precision": "fp32"}), fault
    return config, None


class Worker:
    """Run attempts on one device."""

    def __init__(self, config: WorkerConfig, writer: MessageWriter, storage: Storage) -> None:
        """Open the device, which takes a second or two."""
        self._writer = writer
        self._storage = storage
        models_dir = Path(config.models_dir) if config.models_dir else None
        add_own_models(models_dir)
        self._library = ModelLibrary(
            models_dir=models_dir,
            cache_dir=Path(config.cache_dir),
            memory_budget_bytes=config.model_memory_bytes,
        )
        usable, _ = usable_device(config, self._library)
        self._stands_in = usable.device != config.device
        config = self._config = usable
        use_threads(torch_threads(config))
        native = (
            NativeLibrary(Path(config.cache_dir) / "kernels") if config.compile and config.device == "cpu" else None
        )
        self._native = native
        self._batcher = Batcher(config.device, precision=config.precision, native=native)
        self._name = device_name(config.device)
        self._loader = ThreadPoolExecutor(4, thread_name_prefix="model")
        self._running: dict[tuple[str, int], Attempt] = {}
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(
            max_workers=64,
            thread_name_prefix="attempt",
            initializer=use_threads,
            initargs=(attempt_threads(config),),
        )

    def serve(self, lines: Iterable[bytes]) -> None:
        """Handle messages until `shutdown` or the end of the input, then cancel all attempts."""
        self._writer.send(
            Ready(
                device=self._config.device,
                device_name=self._name,
                models=self._model_states(),
                stands_in=self._stands_in,
            )
        )
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
        """Stop a build of the native library, and remove the marker of its first use."""
        if self._native is not None:
            self._native.close()

    def _model_states(self) -> tuple[ModelState, ...]:
        return tuple(
            ModelState(
                name=each.name,
                state=each.state,
                reason=each.reason,
                version=each.version,
                size_bytes=each.size_bytes,
            )
            for each in self._library.states()
        )

    def _start(self, spec: AttemptSpec) -> None:
        progress = ThrottledProgress(self._writer, spec)
        kind = SongAttempt if spec.options.comparison is None else ComparisonAttempt
        attempt = kind(
            spec, self._config, self._storage, self._library, self._loader, self._batcher, progress, progress.on_cpu
        )
        with self._lock:
            self._running[spec.job_id, spec.attempt] = attempt
        self._threads.submit(self._run, attempt)

    def _run(self, attempt: Attempt) -> None:
        spec: AttemptSpec = attempt.spec
        try:
            outcome: Message = attempt.run()
        except BaseException as error:  # the parent needs a message, whatever the reason
            if device_is_lost(error):
                log.critical("the device is lost: %s", error)
                os._exit(1)  # the device is unusable in this process; the parent starts another one
            failure = to_stemify_error(error)
            if failure is not error:
                log.error("job %s attempt %s failed", spec.job_id, spec.attempt, exc_info=error)
            outcome = Failed(
                job_id=spec.job_id,
                attempt=spec.attempt,
                code=failure.code,
                message=failure.message,
                detail=failure.detail,
            )
        finally:
            if self._config.clears_scratch:
                shutil.rmtree(self._storage.local_path(spec.scratch_key), ignore_errors=True)
            with self._lock:
                del self._running[spec.job_id, spec.attempt]
                is_idle = not self._running
        self._writer.send(outcome)
        if is_idle:
            trim_heap()

    def _send_heartbeats(self) -> None:
        next_test_at = time.monotonic() + _NEXT_TEST_S
        while True:
            if self._stands_in and not self._running and time.monotonic() > next_test_at:
                log.warning("this worker starts again to test its GPU")
                os._exit(0)
            self._writer.send(
                Heartbeat(rss_bytes=resident_bytes(), device_bytes=device_memory_bytes(self._config.device))
            )
            time.sleep(self._config.heartbeat_s)
