"""What all attempts do inside a worker: fetch, decode, load models, separate, publish."""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import logging
import resource
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from threading import Event
from typing import TypeVar

from engine.errors import Cancelled, DiskFull, InternalError, OutOfMemory, StemifyError, StorageFailed, is_disk_full
from engine.jobs.job import Stage
from engine.jobs.results import ProcessingMetrics
from engine.media.decode import RawAudio
from engine.media.limits import MediaLimits
from engine.media.sandbox import decode_in_sandbox
from engine.separation.audio.pcm import PcmMix
from engine.separation.models.library import ModelLibrary
from engine.separation.models.loaded_model import LoadedModel
from engine.separation.ops.device import is_out_of_memory
from engine.separation.schedule.batcher import Batcher
from engine.separation.schedule.song_run import RunReport, StemSink
from engine.separation.schedule.steps import run_steps
from engine.storage.storage import Storage
from engine.worker.parameters import SeparationParameters
from engine.worker.protocol import AttemptSpec, Done, WorkerConfig

log = logging.getLogger(__name__)
T = TypeVar("T")


def to_stemify_error(error: BaseException) -> StemifyError:
    """Translate any exception from an attempt into a `StemifyError`."""
    if isinstance(error, StemifyError):
        return error
    if is_out_of_memory(error):
        return OutOfMemory(detail=repr(error))
    if isinstance(error, OSError):
        if is_disk_full(error):
            return DiskFull(detail=repr(error))
        if error.errno == errno.ENOMEM:
            return OutOfMemory(detail=repr(error))
        return StorageFailed(detail=repr(error))
    return InternalError(detail=repr(error))


class Attempt(ABC):
    """One attempt, run in a worker thread. `cancelled` is checked between batches and blocks."""

    def __init__(
        self,
        spec: AttemptSpec,
        config: WorkerConfig,
        storage: Storage,
        library: ModelLibrary,
        loader: Executor,
        batcher: Batcher,
        on_progress: Callable[[Stage, float], None],
        on_cpu: Callable[[], None],
    ) -> None:
        """Prepare an attempt. `on_cpu` is called when the CPU takes over from the worker's GPU."""
        self.spec = spec
        self.cancelled = Event()
        self._config = config
        self._storage = storage
        self._library = library
        self._loader = loader
        self._batcher = batcher
        self._on_progress = on_progress
        self._on_cpu = on_cpu
        self._scratch = storage.local_path(spec.scratch_key)
        self._raw = self._scratch / "mix.f32"  # the decoded song

    @abstractmethod
    def run(self) -> Done:
        """Run the attempt and return its result. The main process removes the scratch folder.

        Raises anything; see `to_stemify_error`.
        """

    def _begin(self) -> tuple[Path, Path, RawAudio]:
        """Fetch and decode the song; return the folder for the files of the result, the song, and what it holds."""
        self._started_s, self._cpu_started_s, self._load_s = time.monotonic(), time.process_time(), 0.0
        out = self._scratch / "out"
        out.mkdir(parents=True, exist_ok=True)
        self._on_progress(Stage.DECODING, 0)
        song = self._storage.fetch(self.spec.input_key, self._scratch, lambda _: self._step(Stage.DECODING, 0))
        return out, song, self._decode(song, self._raw)

    def _publish(self, out: Path) -> None:
        self._step(Stage.PUBLISHING, 0)
        self._storage.publish_folder(out, self.spec.output_key, lambda fraction: self._step(Stage.PUBLISHING, fraction))

    def _metrics(self, song: Path, busy_s: float, sizes: Sequence[int]) -> ProcessingMetrics:
        wall_s = time.monotonic() - self._started_s
        return ProcessingMetrics(
            processing_time=round(wall_s),
            cpu_usage=round(100 * (time.process_time() - self._cpu_started_s) / max(wall_s, 1e-3), 1),
            memory_usage=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            gpu_usage=round(100 * busy_s / max(wall_s, 1e-3), 1) if self._config.device != "cpu" else None,
            model_load_time=round(self._load_s),
            input_file_size=song.stat().st_size,
            output_file_sizes=tuple(sizes),
        )

    def _stop_if_cancelled(self) -> None:
        if self.cancelled.is_set():
            raise Cancelled

    def _step(self, stage: Stage, fraction: float) -> None:
        self._stop_if_cancelled()
        self._on_progress(stage, fraction)

    def _decode(self, song: Path, raw: Path) -> RawAudio:
        limits = MediaLimits(
            max_bytes=self._config.input_bytes,
            max_duration_s=self.spec.max_duration_s,
            timeout_s=self._config.decode_timeout_s,
            memory_bytes=self._config.child_memory_bytes,
        )
        return decode_in_sandbox(
            song,
            raw,
            limits=limits,
            cancelled=self.cancelled,
            on_progress=lambda fraction: self._on_progress(Stage.DECODING, fraction),
        )

    def _load(self, name: str, on_wait: Callable[[], None]) -> tuple[LoadedModel, ...]:
        """Load a model, or its steps, as `_in_loader` does."""
        return self._in_loader(self._library.load_steps, name, on_wait)

    def _in_loader(self, work: Callable[[str], T], name: str, on_wait: Callable[[], None]) -> T:
        """Call `work` with the name of a model in another thread, and `on_wait` until it returns.

        A cancelled attempt then ends at once, while a download that other attempts may need continues.
        """
        started_s = time.monotonic()
        working = self._loader.submit(work, name)
        while True:
            self._stop_if_cancelled()
            on_wait()
            with contextlib.suppress(concurrent.futures.TimeoutError):
                result = working.result(timeout=0.2)
                self._load_s += time.monotonic() - started_s
                return result

    @staticmethod
    def _open_mix(raw: Path, decoded: RawAudio, model: LoadedModel) -> PcmMix:
        return PcmMix(
            raw,
            channels=decoded.channels,
            sample_rate=decoded.sample_rate,
            model_rate=model.sample_rate,
            model_channels=model.audio_channels,
        )

    def _tags(self, decoded: RawAudio) -> dict[str, str]:
        return {**({"artist": self.spec.artist} if self.spec.artist else {}), **decoded.tags}

    def _separate(
        self,
        models: Sequence[LoadedModel],
        mix: PcmMix,
        sink: StemSink,
        stems: Sequence[str],
        on_progress: Callable[[float], None],
    ) -> RunReport:
        plan = self._plan(models)
        return run_steps(
            self._batcher,
            models,
            mix,
            sink,
            self._scratch,
            stems=stems,
            shifts=plan.shifts,
            overlap=plan.overlap,
            segment_s=plan.segment_s,
            seed=self.spec.seed,
            on_progress=on_progress,
            on_cpu=self._on_cpu,
            cancelled=self.cancelled,
        )

    def _plan(self, models: Sequence[LoadedModel]) -> SeparationParameters:
        return SeparationParameters.of(self.spec, models[0].segment_s)
