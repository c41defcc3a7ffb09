"""The entities of the data model, the states of a job, and the one table of legal transitions.

Field names are the data model's. On the wire they are camelCase (`model_dump(by_alias=True)`); both spellings are
accepted on input. Entities are frozen: a change is a new object.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Self
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from engine.errors import BadOptions, IllegalTransition, UnknownModel

MODELS: dict[str, str] = {
    "htdemucs": "Hybrid Transformer Demucs, the standard",
    "htdemucs_ft": "fine-tuned, one network a stem: better, four times slower",
    "htdemucs_6s": "six stems, with guitar and piano (experimental)",
    "hdemucs_mmi": "Hybrid Demucs v3, retrained",
    "mdx_extra": "four Hybrid Demucs v3, MDX challenge",
    "mdx_extra_q": "the same, quantized: a smaller download (needs diffq)",
    "hdemucs_high": "torchaudio's Hybrid Demucs (needs torchaudio)",
    "mini": "small and embedded: works without a download, rougher results",
}
"""Every model that can be named, with a line for people."""

STEMS = ("vocals", "drums", "bass", "other", "guitar", "piano")
"""Stems that a model may give, in the order in which they are shown."""


class JobStatus(StrEnum):
    PENDING = "pending"  # accepted and stored, waits for a worker
    PROCESSING = "processing"  # claimed; stays so through retries, `attempt` counts them
    COMPLETED = "completed"  # stems are published; nothing about the job changes any more
    FAILED = "failed"  # ended with a reason; cancelled is `error_code == "cancelled"`


TRANSITIONS: dict[JobStatus, frozenset[JobStatus]] = {
    JobStatus.PENDING: frozenset({JobStatus.PROCESSING, JobStatus.FAILED}),
    JobStatus.PROCESSING: frozenset({JobStatus.COMPLETED, JobStatus.FAILED}),
    JobStatus.COMPLETED: frozenset(),
    JobStatus.FAILED: frozenset(),
}
TERMINAL_STATUSES = frozenset(status for status, following in TRANSITIONS.items() if not following)
ACTIVE_STATUSES = frozenset(JobStatus) - TERMINAL_STATUSES


def check_transition(before: JobStatus, after: JobStatus) -> None:
    """Raise `IllegalTransition` unless a job may go from `before` to `after`."""
    if after not in TRANSITIONS[before]:
        raise IllegalTransition(f"A {before} job cannot become {after}.")


class Stage(StrEnum):
    """Where inside `processing` an attempt is, in order."""

    FETCHING = "fetching"
    DECODING = "decoding"
    SEPARATING = "separating"
    MEASURING = "measuring"
    ENCODING = "encoding"
    PUBLISHING = "publishing"


STAGE_SPANS: dict[Stage, tuple[int, int]] = {
    Stage.FETCHING: (0, 5),
    Stage.DECODING: (5, 10),
    Stage.SEPARATING: (10, 90),
    Stage.MEASURING: (90, 92),
    Stage.ENCODING: (92, 98),
    Stage.PUBLISHING: (98, 100),
}
"""What share of the whole each stage stands for, in per cent of `progress`."""


def overall_progress(stage: Stage, fraction: float) -> int:
    """`progress` (0-99: 100 is only reached by completing) of an attempt that is `fraction` (0-1) into `stage`."""
    low, high = STAGE_SPANS[stage]
    return min(99, int(low + (high - low) * min(1.0, max(0.0, fraction))))


class InputType(StrEnum):
    FILE_UPLOAD = "file_upload"
    YOUTUBE_URL = "youtube_url"


class Quality(StrEnum):
    FAST = "fast"
    BALANCED = "balanced"
    BEST = "best"


class OutputFormat(StrEnum):
    WAV = "wav"
    MP3 = "mp3"
    FLAC = "flac"


def _supported_model(name: str) -> str:
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; there are: {', '.join(MODELS)}")
    return name


def _job_id(value: str) -> str:
    return str(UUID(value))


_VIDEO_ADDRESS = re.compile(r"https://www\.youtube\.com/watch\?v=[A-Za-z0-9_-]{11}")

ModelName = Annotated[str, AfterValidator(_supported_model), Field(json_schema_extra={"enum": list(MODELS)})]
JobId = Annotated[str, AfterValidator(_job_id)]


class Entity(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        protected_namespaces=(),
    )


class StemSeparationOptions(Entity):
    """What the user chose."""

    model: ModelName = "htdemucs"
    quality: Quality = Quality.BALANCED
    output_format: OutputFormat = OutputFormat.MP3
    normalize: bool = False
    remove_vocals: bool = False
    segment_duration: float | None = Field(default=None, ge=1, le=600, allow_inf_nan=False)  # seconds
    overlap_duration: float | None = Field(default=None, ge=0, le=600, allow_inf_nan=False)  # seconds

    @model_validator(mode="after")
    def _overlap_is_shorter_than_segment(self) -> Self:
        if (
            self.segment_duration is not None
            and self.overlap_duration is not None
            and self.overlap_duration >= self.segment_duration
        ):
            raise ValueError("overlap_duration must be shorter than segment_duration")
        return self

    @classmethod
    def chosen(cls, **values: object) -> Self:
        """Options as a person gave them (None: not given). Raises `UnknownModel` or `BadOptions`."""
        given = {name: value for name, value in values.items() if value is not None}
        model = given.get("model")
        if model is not None and model not in MODELS:
            raise UnknownModel(f"There is no model {str(model)[:40]!r}. Choose one of: {', '.join(MODELS)}.")
        if model is None and given.get("quality") == Quality.BEST:
            given["model"] = "htdemucs_ft"
        try:
            return cls.model_validate(given)
        except ValueError as error:
            raise BadOptions(_first_complaint(error)) from error


def _first_complaint(error: ValueError) -> str:
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"]) or "options"
    return f"The option {name} is not right: {first['msg']}."


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
    """The files of a result. In karaoke mode only `vocals` and `instrumental` are there."""

    vocals: StemInfo | None = None
    drums: StemInfo | None = None
    bass: StemInfo | None = None
    other: StemInfo | None = None
    guitar: StemInfo | None = None
    piano: StemInfo | None = None
    instrumental: StemInfo | None = None

    def __iter__(self) -> Iterator[tuple[str, StemInfo]]:  # type: ignore[override]
        """(stem, file) of those that are there, in the order in which they are shown."""
        for name in (*STEMS, "instrumental"):
            info: StemInfo | None = getattr(self, name)
            if info is not None:
                yield name, info


Score = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class QualityMetrics(Entity):
    """Estimates without references; see docs. None where a stem is silent or absent."""

    overall_score: Score
    vocal_isolation: Score | None = None
    drum_separation: Score | None = None
    bass_isolation: Score | None = None
    artifact_reduction: Score | None = None
    method: str


class ProcessingMetrics(Entity):
    """Measured, not estimated."""

    processing_time: int = Field(ge=0)  # seconds, whole attempt
    cpu_usage: float = Field(ge=0)  # per cent of one core, mean over the attempt, of the worker that attempts share
    memory_usage: int = Field(ge=0)  # MB, peak resident size of the worker so far
    gpu_usage: float | None = None  # per cent of the attempt in which the device was at work; None without a GPU
    model_load_time: int = Field(ge=0)  # seconds; 0 when the model was resident
    input_file_size: int = Field(ge=0)  # bytes
    output_file_sizes: tuple[int, ...] = ()  # bytes


class TrustCard(Entity):
    """Facts about a result, all measured on the float stems before they were encoded."""

    residual_db: float | None  # level of mix minus sum of stems, against the mix; None: exactly zero or silent
    gain_db: float  # the one common gain on all stems
    clipped_samples: int = Field(ge=0)
    seed: int
    shifts: int = Field(ge=0)
    overlap: float = Field(ge=0, lt=1)
    segment_s: float = Field(gt=0)
    segments: int = Field(ge=0)  # forward passes over one segment, all members and shifts
    device: str
    notes: tuple[str, ...] = ()  # sentences, e.g. that the batch was halved for want of memory


class JobResult(Entity):
    job_id: JobId
    output_dir: str
    stems: StemFiles
    processing_time: int = Field(ge=0)  # seconds
    model_used: str
    quality_metrics: QualityMetrics | None = None
    file_size: int = Field(ge=0)  # bytes, all stems
    cdn_urls: tuple[str, ...] = ()
    processing: ProcessingMetrics | None = None
    trust: TrustCard | None = None
    waveform_path: str | None = None  # storage key of the picture
    peaks_path: str | None = None  # storage key of the player's peaks


class Job(Entity):
    """What a user asked for, and how far it is."""

    id: JobId
    status: JobStatus
    created_at: AwareDatetime
    updated_at: AwareDatetime
    input_type: InputType
    input_source: str = Field(min_length=1)  # storage key of the file, or the canonical YouTube address
    model: ModelName
    options: StemSeparationOptions
    progress: int = Field(default=0, ge=0, le=100)
    result: JobResult | None = None
    error: str | None = None  # a sentence
    estimated_duration: int = Field(ge=0)  # seconds of processing
    actual_duration: int | None = Field(default=None, ge=0)

    owner: str = Field(min_length=1)  # who asked: "discord:<user id>", "ip:<address or /64>", "local"
    scope: str | None = None  # what they asked in, for caps: "discord:<guild id>"
    place: str | None = None  # where others may see it: "discord:<channel id>"
    title: str = "audio"  # the track's name, for people and file names
    artist: str | None = None
    input_size: int = Field(default=0, ge=0)  # bytes
    input_duration: float | None = None  # seconds
    attempt: int = Field(default=0, ge=0)  # 1 at the first claim
    stage: Stage | None = None
    error_code: str | None = None
    retry_of: JobId | None = None
    keep: bool = False  # links and stems stay until deleted

    @model_validator(mode="after")
    def _model_is_the_options_model(self) -> Self:
        if self.model != self.options.model:
            raise ValueError("model differs from options.model")
        return self

    @model_validator(mode="after")
    def _source_fits_type(self) -> Self:
        if self.input_type is InputType.YOUTUBE_URL:
            if not _VIDEO_ADDRESS.fullmatch(self.input_source):
                raise ValueError("input_source is not the address of one YouTube video")
        elif "\0" in self.input_source or any(part in ("", ".", "..") for part in self.input_source.split("/")):
            raise ValueError("input_source is not the storage key of a file")
        return self

    @model_validator(mode="after")
    def _outcome_fits_status(self) -> Self:
        if (self.result is not None) != (self.status is JobStatus.COMPLETED):
            raise ValueError("exactly the completed jobs have a result")
        if (self.error is not None) != (self.status is JobStatus.FAILED):
            raise ValueError("exactly the failed jobs have an error")
        if self.result is not None and self.result.job_id != self.id:
            raise ValueError("the result belongs to another job")
        return self

    @property
    def is_over(self) -> bool:
        return self.status in TERMINAL_STATUSES

    @property
    def was_cancelled(self) -> bool:
        return self.error_code == "cancelled"


class FileLink(Entity):
    """A signed, public address of one file of a result."""

    name: str  # "vocals", …, "zip"
    filename: str
    url: str
    size: int | None = None  # bytes; None where it is made on the fly


class JobView(Entity):
    """A job as a front end shows it at one moment."""

    job: Job
    queue_place: int | None = None  # 1 is next; only while pending
    eta_s: float | None = None  # seconds until it is done, waiting included
    links: tuple[FileLink, ...] = ()
    page_url: str | None = None
    links_expire_at: AwareDatetime | None = None


# Data transfer objects of the HTTP API.


class StemifyRequest(Entity):
    """The JSON form of a request; a file comes as multipart with the same `options`."""

    youtube_url: str | None = None
    options: StemSeparationOptions | None = None


class StemifyResponse(Entity):
    job_id: str
    status: JobStatus = JobStatus.PENDING
    estimated_duration: int
    message: str


class JobStatusResponse(Entity):
    job_id: str
    status: JobStatus
    progress: int
    result: JobResult | None = None
    error: str | None = None
    created_at: AwareDatetime
    updated_at: AwareDatetime


def new_job_id(at: datetime | None = None) -> str:
    """A UUIDv7 (RFC 9562): the time in milliseconds, then 74 random bits; ids sort by the time of their making."""
    at_ms = int(at.timestamp() * 1000) if at else time.time_ns() // 1_000_000
    value = (at_ms & (1 << 48) - 1) << 80 | int.from_bytes(os.urandom(10))
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(UUID(int=value))


def id_time(job_id: str) -> datetime:
    """When a UUIDv7 was made."""
    return datetime.fromtimestamp((UUID(job_id).int >> 80) / 1000, tz=UTC)


def db(ratio: float) -> float | None:
    """An amplitude ratio in dB; None for zero and for what is not finite."""
    return 20 * math.log10(ratio) if ratio > 0 and math.isfinite(ratio) else None
