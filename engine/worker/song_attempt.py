"""An attempt of an ordinary job: the stems of a whole song, measured and encoded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

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
from engine.quality.estimate import Estimate, estimate_quality
from engine.separation.audio.pcm import PcmMix
from engine.separation.models.loaded_model import LoadedModel
from engine.separation.schedule.song_run import RunReport
from engine.text import safe_title
from engine.worker.attempt import Attempt
from engine.worker.music_files import write_music
from engine.worker.parameters import SeparationParameters
from engine.worker.protocol import Done
from engine.worker.stem_writer import StemWriter, TrackInfo


class SongAttempt(Attempt):
    def run(self) -> Done:
        out, song, decoded = self._begin()
        models = self._load(self.spec.options.model, lambda: self._on_progress(Stage.DECODING, 1.0))
        stems, rest = self._outputs(models)
        with (
            self._open_mix(self._raw, decoded, models[0]) as mix,
            self._open_writer(mix, stems, rest, decoded, out) as writer,
        ):
            self._on_progress(Stage.SEPARATING, 0)
            report = self._separate(
                models, mix, writer, stems, lambda fraction: self._on_progress(Stage.SEPARATING, fraction)
            )
            self._on_progress(Stage.MEASURING, 0)
            writer.finish()
            self._on_progress(Stage.ENCODING, 0)
            picture, peaks = writer.write_pictures()  # while the last block is still being encoded
            music = write_music(writer.facts, out)
            infos, stem_file = self._encode(writer)
            self._stop_if_cancelled()
            estimate = self._estimate(writer, report, decoded)
            trust = self._trust_card(writer, self._plan(models), report, estimate, mix)
        self._publish(out)
        sizes = (*(info.size for info in infos.values()), *([stem_file.size] if stem_file else []))
        metrics = self._metrics(song, report.busy_s, sizes)
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

    def _open_writer(
        self, mix: PcmMix, stems: Sequence[str], rest: str | None, decoded: RawAudio, out: Path
    ) -> StemWriter:
        options = self.spec.options
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
            track=TrackInfo(safe_title(self.spec.title), options.model, self._tags(decoded), decoded.cover),
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
