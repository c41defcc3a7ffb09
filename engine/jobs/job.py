"""A job: its states and their legal transitions, its stages, and its view for front ends."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Self

from pydantic import AwareDatetime, Field, model_validator

from engine.jobs.entity import Entity, JobId
from engine.jobs.models import ModelName
from engine.jobs.options import StemSeparationOptions
from engine.jobs.results import JobResult


class JobStatus(StrEnum):
    PENDING = "pending"  #: Accepted and stored; waits for a worker.
    PROCESSING = "processing"  #: Claimed; stays so through retries, which `attempt` counts.
    COMPLETED = "completed"  #: Stems are published; the job no longer changes.
    FAILED = "failed"  #: Ended with an error; "cancelled" is one of the error codes.


TRANSITIONS: dict[JobStatus, frozenset[JobStatus]] = {
    JobStatus.PENDING: frozenset({JobStatus.PROCESSING, JobStatus.FAILED}),
    JobStatus.PROCESSING: frozenset({JobStatus.COMPLETED, JobStatus.FAILED}),
    JobStatus.COMPLETED: frozenset(),
    JobStatus.FAILED: frozenset(),
}
TERMINAL_STATUSES = frozenset(status for status, following in TRANSITIONS.items() if not following)
ACTIVE_STATUSES = frozenset(JobStatus) - TERMINAL_STATUSES


class Stage(StrEnum):
    """Steps of an attempt, in order."""

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
"""Start and end of each stage in percent of `progress`."""


def overall_progress(stage: Stage, fraction: float) -> int:
    """Return the progress (0-99, as 100 means completed) of an attempt that is `fraction` (0-1) into `stage`."""
    low, high = STAGE_SPANS[stage]
    return min(99, int(low + (high - low) * min(1.0, max(0.0, fraction))))


class InputType(StrEnum):
    FILE_UPLOAD = "file_upload"
    YOUTUBE_URL = "youtube_url"


_VIDEO_ADDRESS = re.compile(r"https://www\.youtube\.com/watch\?v=[A-Za-z0-9_-]{11}")


class Job(Entity):
    """A request of a user and its state."""

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
    error: str | None = None  # message for the user
    estimated_duration: int = Field(ge=0)  # seconds of processing
    actual_duration: int | None = Field(default=None, ge=0)

    owner: str = Field(min_length=1)  # requester: "discord:<user id>", "ip:<address or /64>", "local"
    scope: str | None = None  # for queue limits: "discord:<guild id>"
    place: str | None = None  # where others may see the job: "discord:<channel id>"
    title: str = "audio"  # of the track, for messages and file names
    artist: str | None = None
    input_size: int = Field(default=0, ge=0)  # bytes
    input_duration: float | None = None  # seconds
    attempt: int = Field(default=0, ge=0)  # 1 at the first claim
    stage: Stage | None = None
    error_code: str | None = None
    retry_of: JobId | None = None
    keep: bool = False  # links and stems do not expire

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
    """A signed, public URL of one file of a result."""

    name: str  # "vocals", …, "stem" (the stem file), "zip"
    filename: str
    url: str
    size: int | None = None  # bytes; None if it is generated on request


class JobView(Entity):
    """A job as a front end shows it at one moment."""

    job: Job
    queue_place: int | None = None  # 1 is next; only while pending
    eta_s: float | None = None  # seconds until it is done, including the wait; None: unknown
    no_worker: bool = False  # no machine is connected; the job continues when one is
    on_cpu: bool = False  # runs on the CPU because the GPU ran out of memory
    links: tuple[FileLink, ...] = ()
    music_links: tuple[FileLink, ...] = ()  # "beats", "chords"
    picture_url: str | None = None  # of the stems' waveforms
    page_url: str | None = None
    links_expire_at: AwareDatetime | None = None
