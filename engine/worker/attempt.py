"""One attempt of one job inside a worker: decode, separate, measure, encode, publish."""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import logging
import resource
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from threading import Event

import numpy as np

from engine.errors import Cancelled, DiskFull, InternalError, OutOfMemory, StemifyError, StorageFailed, is_disk_full
from engine.jobs.job import Stage
from engine.jobs.models import join_versions
from engine.jobs.options import OutputFormat
from engine.jobs.results import (
    JobResult,
    Music,
    ProcessingMetrics,
    QualityMetrics,
    StemContainer,
    StemFiles,
    StemInfo,
    TrustCard,
)
from engine.media.decode import RawAudio
from engine.media.limits import MediaLimits
from engine.media.sandbox import decode_in_sandbox
from engine.quality.estimate import Estimate, estimate_quality
from engine.separation.audio.pcm import PcmMix
from engine.separation.models.library import ModelLibrary
from engine.separation.models.loaded_model import LoadedModel
from engine.separation.ops.device import is_out_of_memory
from engine.separation.schedule.batcher import Batcher
from engine.separation.schedule.song_run import RunReport
from engine.separation.schedule.steps import run_steps
from engine.storage.storage import Storage
from engine.text import safe_title
from engine.worker.music_files import write_music
from engine.worker.parameters import SeparationParameters
from engine.worker.protocol import AttemptSpec, Done, WorkerConfig
from engine.worker.stem_writer import StemWriter, TrackInfo

log = logging.getLogger(__name__)


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


class Attempt:
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

    def run(self) -> Done:
        """Run the attempt and return its result. The main process removes the scratch folder.

        Raises anything; see `to_stemify_error`.
        """
        started, cpu_started = time.monotonic(), time.process_time()
        out = self._scratch / "out"
        out.mkdir(parents=True, exist_ok=True)
        raw = self._scratch / "mix.f32"
        self._on_progress(Stage.DECODING, 0)
        song = self._storage.fetch(self.spec.input_key, self._scratch, lambda _: self._step(Stage.DECODING, 0))
        decoded = self._decode(song, raw)
        loading = time.monotonic()
        models = self._load()
        model = models[0]
        model_load_s = time.monotonic() - loading
        with (
            PcmMix(
                raw,
                channels=decoded.channels,
                sample_rate=decoded.sample_rate,
                model_rate=model.sample_rate,
                model_channels=model.audio_channels,
            ) as mix,
            self._open_writer(mix, models, decoded, out) as writer,
        ):
            report, plan = self._separate(models, mix, writer)
            self._on_progress(Stage.MEASURING, 0)
            writer.finish()
            self._on_progress(Stage.ENCODING, 0)
            picture, peaks = writer.write_pictures()  # while the last block is still being encoded
            music = write_music(writer.facts, out)
            infos, stem_file = self._encode(writer)
            self._stop_if_cancelled()
            estimate = self._estimate(writer, report, decoded)
            trust = self._trust_card(writer, plan, report, estimate, mix)
        self._step(Stage.PUBLISHING, 0)
        self._storage.publish_folder(out, self.spec.output_key, lambda fraction: self._step(Stage.PUBLISHING, fraction))
        wall_s = time.monotonic() - started
        metrics = ProcessingMetrics(
            processing_time=round(wall_s),
            cpu_usage=round(100 * (time.process_time() - cpu_started) / max(wall_s, 1e-3), 1),
            memory_usage=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            gpu_usage=round(100 * report.busy_s / max(wall_s, 1e-3), 1) if self._config.device != "cpu" else None,
            model_load_time=round(model_load_s),
            input_file_size=song.stat().st_size,
            output_file_sizes=(*(info.size for info in infos.values()), *([stem_file.size] if stem_file else [])),
        )
        return Done(
            job_id=self.spec.job_id,
            attempt=self.spec.attempt,
            result=self._result(
                infos, stem_file, metrics, trust, estimate.metrics, music, picture.name, peaks.name
            ).model_copy(
                update={
                    "audio_hash": decoded.audio_hash,
                    "model_version": join_versions([each.version for each in models]),
                }
            ),
            separating_s=report.separating_s,
            input_duration_s=decoded.samples / decoded.sample_rate,
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

    def _load(self) -> tuple[LoadedModel, ...]:
        """Load the models in another thread.

        A cancelled attempt then ends at once, while a download that other attempts may need continues.
        """
        loading = self._loader.submit(self._library.load_steps, self.spec.options.model)
        while True:
            self._stop_if_cancelled()
            self._on_progress(Stage.DECODING, 1.0)
            with contextlib.suppress(concurrent.futures.TimeoutError):
                return loading.result(timeout=0.2)

    def _open_writer(self, mix: PcmMix, models: Sequence[LoadedModel], decoded: RawAudio, out: Path) -> StemWriter:
        options = self.spec.options
        stems, rest = self._outputs(models)
        tags = dict(decoded.tags)
        if self.spec.artist:
            tags.setdefault("artist", self.spec.artist)
        return StemWriter(
            self._scratch,
            out,
            stems=stems,
            read_mix=lambda start, stop: mix.without_offset(start, stop).numpy(),
            samples=mix.samples,
            sample_rate=mix.sample_rate,
            output_format=options.output_format,
            normalize=options.normalize,
            rest=rest,
            track=TrackInfo(safe_title(self.spec.title), options.model, tags, decoded.cover),
            scale=mix.std,
            cancelled=self.cancelled,
        )

    def _outputs(self, models: Sequence[LoadedModel]) -> tuple[tuple[str, ...], str | None]:
        """Return the stems that the models separate, and the one that is the rest of the mix."""
        if self.spec.options.remove_vocals:
            return ("vocals",), "instrumental"
        if len(models) > 1:
            return ("vocals", "drums", "bass"), "other"
        return models[0].sources, models[0].rest

    def _separate(
        self, models: tuple[LoadedModel, ...], mix: PcmMix, writer: StemWriter
    ) -> tuple[RunReport, SeparationParameters]:
        plan = SeparationParameters.of(self.spec, models[0].segment_s)
        self._on_progress(Stage.SEPARATING, 0)
        report = run_steps(
            self._batcher,
            models,
            mix,
            writer,
            self._scratch,
            stems=self._outputs(models)[0],
            shifts=plan.shifts,
            overlap=plan.overlap,
            segment_s=plan.segment_s,
            seed=self.spec.seed,
            on_progress=lambda fraction: self._on_progress(Stage.SEPARATING, fraction),
            on_cpu=self._on_cpu,
            cancelled=self.cancelled,
        )
        return report, plan

    def _encode(self, writer: StemWriter) -> tuple[dict[str, StemInfo], StemContainer | None]:
        """Finish the stems and, if asked for, the stem file, which takes longer."""
        if self.spec.options.output_format is not OutputFormat.STEM:
            return writer.encode(lambda fraction: self._on_progress(Stage.ENCODING, fraction)), None
        infos = writer.encode(lambda fraction: self._on_progress(Stage.ENCODING, fraction / 4))
        return infos, writer.write_stem_file(lambda fraction: self._on_progress(Stage.ENCODING, (1 + 3 * fraction) / 4))

    def _estimate(self, writer: StemWriter, report: RunReport, decoded: RawAudio) -> Estimate:
        """Estimate the quality of the stems, independently of output format and gain."""
        options = self.spec.options
        residual_db = None if writer.has_rest else writer.residual_db
        features = writer.meter.features(report.agreement_db, residual_db)
        return estimate_quality(
            features,
            writer.meter.shapes(features),
            model=options.model,
            quality=options.quality,
            duration_s=decoded.samples / decoded.sample_rate,
            karaoke=writer.has_rest and writer.meter.stems == ("vocals",),
        )

    def _trust_card(
        self, writer: StemWriter, plan: SeparationParameters, report: RunReport, estimate: Estimate, mix: PcmMix
    ) -> TrustCard:
        return TrustCard(
            residual_db=writer.residual_db,
            offset=mix.offset,
            gain_db=round(20 * float(np.log10(writer.gain)), 3),
            clipped_samples=writer.clipped_samples,
            seed=self.spec.seed,
            shifts=plan.shifts,
            overlap=plan.overlap,
            segment_s=report.segment_s,
            segments=report.segments,
            device=" and ".join(report.devices) or self._config.device,
            notes=(*report.notes, *estimate.notes),
        )

    def _result(
        self,
        infos: dict[str, StemInfo],
        stem_file: StemContainer | None,
        metrics: ProcessingMetrics,
        trust: TrustCard,
        quality: QualityMetrics | None,
        music: Music,
        picture: str,
        peaks: str,
    ) -> JobResult:
        key = self.spec.output_key
        stems = {name: info.model_copy(update={"path": f"{key}/{info.path}"}) for name, info in infos.items()}
        paths = {"beats_path": music.beats_path, "chords_path": music.chords_path}
        return JobResult(
            job_id=self.spec.job_id,
            output_dir=key,
            stems=StemFiles.model_validate({name: info.model_dump() for name, info in stems.items()}),
            processing_time=metrics.processing_time,
            model_used=self.spec.options.model,
            quality_metrics=quality,
            stem_file=stem_file and stem_file.model_copy(update={"path": f"{key}/{stem_file.path}"}),
            file_size=sum(metrics.output_file_sizes),
            processing=metrics,
            trust=trust,
            music=music.model_copy(update={name: f"{key}/{path}" for name, path in paths.items() if path}),
            waveform_path=f"{key}/{picture}",
            peaks_path=f"{key}/{peaks}",
        )
