"""A job: its states, the one table of legal transitions, its stages, and how a front end sees it."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Self

from pydantic import AwareDatetime, Field, model_validator

from engine.jobs.entity import Entity, JobId
from engine.jobs.options import ModelName, StemSeparationOptions
from engine.jobs.results import JobResult


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


_VIDEO_ADDRESS = re.compile(r"https://www\.youtube\.com/watch\?v=[A-Za-z0-9_-]{11}")


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
    eta_s: float | None = None  # seconds until it is done, waiting included; None: nobody can say
    no_worker: bool = False  # no machine is there to work on it; it goes on by itself when one is
    on_cpu: bool = False  # the CPU has to stand in for a GPU whose memory did not suffice
    links: tuple[FileLink, ...] = ()
    page_url: str | None = None
    links_expire_at: AwareDatetime | None = None
