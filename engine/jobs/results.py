"""Results of a job: its stems and the measurements of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Self

from pydantic import AwareDatetime, Field

from engine.jobs.entity import Entity, JobId
from engine.jobs.options import DISPLAY_ORDER, OutputFormat
from engine.jobs.words import Word


class StemInfo(Entity):
    """One file of a result."""

    filename: str
    path: str  # storage key, relative to the data folder
    size: int = Field(ge=0)  # bytes
    duration: float = Field(ge=0)  # seconds
    format: OutputFormat
    sample_rate: int = Field(gt=0)
    bitrate: int | None = None  # bits per second, compressed formats only
    cdn_url: str | None = None
    level_db: float | None = None  # RMS, dBFS; None: silent
    peak_db: float | None = None  # sample peak, dBFS; None: silent
    silence_share: float | None = Field(default=None, ge=0, le=1)


class StemFiles(Entity):
    """Files of a result. Karaoke mode has only `vocals` and `instrumental`."""

    vocals: StemInfo | None = None
    drums: StemInfo | None = None
    bass: StemInfo | None = None
    other: StemInfo | None = None
    guitar: StemInfo | None = None
    piano: StemInfo | None = None
    instrumental: StemInfo | None = None

    def __iter__(self) -> Iterator[tuple[str, StemInfo]]:  # type: ignore[override]
        """Yield (stem, file) of the existing stems in display order."""
        for name in DISPLAY_ORDER:
            info: StemInfo | None = getattr(self, name)
            if info is not None:
                yield name, info


class StemContainer(Entity):
    """One file with the mix and four stems, for DJ software (`.stem.m4a`)."""

    filename: str
    path: str  # storage key, relative to the data folder
    size: int = Field(ge=0)  # bytes
    cdn_url: str | None = None


Score = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class QualityMetrics(Entity):
    """Quality estimated without references (see `engine/quality/CALIBRATION.md`).

    None for a stem that is silent, not in the song or not in the result; the overall score covers the others.
    """

    overall_score: Score
    vocal_isolation: Score | None = None
    drum_separation: Score | None = None
    bass_isolation: Score | None = None
    artifact_reduction: Score | None = None
    words: dict[str, Word] = Field(default_factory=dict)  # for the score of every estimated stem, and "overall"
    absent: tuple[str, ...] = ()  # stems that are not in the song; their files have only leakage
    method: str  # of estimation
    validated: bool = False  # whether the estimate was compared with true scores of this model
    low_confidence: bool = False  # the song is too short for a good estimate
    advice: str | None = None  # what to try if the overall score is too low for production use


class Music(Entity):
    """Musical facts, estimated from the stems. A fact that is too uncertain is None, and so is its confidence."""

    tempo_bpm: float | None = Field(default=None, gt=0)
    tempo_confidence: Score | None = None
    tempo_alternatives: tuple[float, ...] = ()  # half and twice the tempo
    key: str | None = None  # "F# minor"
    camelot: str | None = None  # "11A"
    key_confidence: Score | None = None
    beats: str | None = None  # signed link to beats.json
    beats_path: str | None = None  # storage key
    beats_confidence: Score | None = None
    chords: str | None = None  # signed link to chords.json
    chords_path: str | None = None  # storage key
    chords_confidence: Score | None = None


class ProcessingMetrics(Entity):
    """Measured cost of the attempt."""

    processing_time: int = Field(ge=0)  # seconds, whole attempt
    cpu_usage: float = Field(ge=0)  # percent of one core, mean over the attempt, of the whole worker
    memory_usage: int = Field(ge=0)  # MB, peak resident size of the worker so far
    gpu_usage: float | None = None  # percent of the attempt during which the GPU was busy; None without a GPU
    model_load_time: int = Field(ge=0)  # seconds; 0 if the model was in memory
    input_file_size: int = Field(ge=0)  # bytes
    output_file_sizes: tuple[int, ...] = ()  # bytes


class TrustCard(Entity):
    """Facts about a result, measured on the float stems before encoding."""

    # Level of mix minus sum of stems, relative to the mix, without DC; None: exactly zero or silent.
    residual_db: float | None
    offset: float = Field(default=0.0, ge=0)  # DC of the mix that no stem has, full scale 1; 0: negligible
    gain_db: float  # common gain of all stems
    clipped_samples: int = Field(ge=0)
    seed: int
    shifts: int = Field(ge=0)
    overlap: float = Field(ge=0, lt=1)
    segment_s: float = Field(gt=0)
    segments: int = Field(ge=0)  # forward passes over one segment, all members and shifts
    device: str
    notes: tuple[str, ...] = ()  # sentences, such as that the batch was halved to save memory


class Candidate(Entity):
    """One model of a comparison, and its stems of the excerpt."""

    label: str  # "A", "B", …
    model: str
    model_version: str | None = None  # changes with the weights
    stems: StemFiles


class ComparisonResult(Entity):
    """An excerpt as each of several models separates it; the files of a stem are equally loud."""

    start_s: float = Field(ge=0)  # of the excerpt in the song
    duration_s: float = Field(gt=0)
    candidates: tuple[Candidate, ...]

    @property
    def models(self) -> dict[str, str]:
        """The names of the models by label."""
        return {each.label: each.model for each in self.candidates}

    @property
    def files(self) -> list[tuple[str, str, StemInfo]]:
        """The files of all models: label, stem, file."""
        return [(each.label, stem, info) for each in self.candidates for stem, info in each.stems]


class JobResult(Entity):
    job_id: JobId
    output_dir: str
    stems: StemFiles
    processing_time: int = Field(ge=0)  # seconds
    model_used: str
    quality_metrics: QualityMetrics | None = None
    stem_file: StemContainer | None = None  # with the output format "stem"
    file_size: int = Field(ge=0)  # bytes, all stems and the stem file
    cdn_urls: tuple[str, ...] = ()
    processing: ProcessingMetrics | None = None
    trust: TrustCard | None = None
    music: Music | None = None
    waveform_path: str | None = None  # storage key of the picture
    peaks_path: str | None = None  # storage key of the player's peaks
    audio_hash: str | None = None  # SHA-256 of the decoded samples
    model_version: str | None = None  # changes with the weights
    separated_at: AwareDatetime | None = None  # of an earlier job whose files these are
    comparison: ComparisonResult | None = None  # then there are no other stems

    @property
    def files_by_name(self) -> dict[str, StemInfo]:
        """The files to listen to: all stems; of a comparison one stem of each model, named with the model's label."""
        if self.comparison is None:
            return dict(self.stems)
        candidates = {each.label: dict(each.stems) for each in self.comparison.candidates}
        chosen = {label: "vocals" if "vocals" in stems else next(iter(stems)) for label, stems in candidates.items()}
        return {f"{label} {stem}": candidates[label][stem] for label, stem in chosen.items()}

    @property
    def versions(self) -> dict[str, str | None]:
        """The versions of the models that were used."""
        if self.comparison is None:
            return {self.model_used: self.model_version}
        return {each.model: each.model_version for each in self.comparison.candidates}

    def of_job(self, job_id: JobId, output_dir: str) -> tuple[Self, dict[str, str]]:
        """Return the result as that of another job, and the storage key of each file → its key there."""
        keys: dict[str, str] = {}

        def move(value: object) -> object:
            if isinstance(value, dict):
                return {name: move(each) for name, each in value.items()}
            if isinstance(value, str) and value.startswith(f"{self.output_dir}/"):
                keys[value] = output_dir + value.removeprefix(self.output_dir)
                return keys[value]
            return value

        moved = move(self.model_dump())
        assert isinstance(moved, dict)
        return type(self).model_validate({**moved, "job_id": job_id, "output_dir": output_dir}), keys


def db(ratio: float) -> float | None:
    """Return an amplitude ratio in dB; None for zero and non-finite values."""
    return 20 * math.log10(ratio) if ratio > 0 and math.isfinite(ratio) else None
