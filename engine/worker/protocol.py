"""Messages between the main process and a worker: one JSON object per line, on the worker's stdin and stdout.

In: `start`, `cancel`, `shutdown`. Out: `ready`, `progress`, `heartbeat`, `done`, `failed`. Messages about an attempt
name its (job_id, attempt), so that late messages about a lost attempt can be ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from config.settings import Storage as StorageSettings
from engine.jobs.job import Job, Stage
from engine.jobs.models import State, join_versions, steps_of
from engine.jobs.options import StemSeparationOptions
from engine.jobs.results import JobResult

SECRET_VARIABLE = "STEMIFY_STORAGE__SECRET_ACCESS_KEY"  # noqa: S105


class Message(BaseModel):
    """Base class of all messages."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    def line(self) -> bytes:
        """Return the message as a line of JSON."""
        return self.model_dump_json().encode() + b"\n"


class AttemptSpec(BaseModel):
    """One attempt of one job, as a worker runs it."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    job_id: str
    attempt: int
    input_key: str  # storage key of the song
    scratch_key: str  # storage key of a folder on the worker's disk; the main process removes it afterwards
    output_key: str  # storage key of the folder for the finished files
    options: StemSeparationOptions
    title: str
    artist: str | None = None
    seed: int
    max_duration_s: float
    shifts: int | None = None  # None: the quality's default
    overlap: float | None = None  # fraction of a segment; None: the quality's default

    @classmethod
    def of(cls, job: Job, max_duration_s: float) -> Self:
        """Return the current attempt of a job."""
        return cls(
            job_id=job.id,
            attempt=job.attempt,
            input_key=f"jobs/{job.id}/input",
            scratch_key=f"scratch/{job.id}-a{job.attempt}",
            output_key=f"jobs/{job.id}/a{job.attempt}",
            options=job.options,
            title=job.title,
            artist=job.artist,
            seed=UUID(job.id).int & 0x7FFFFFFF,
            max_duration_s=max_duration_s,
        )


class WorkerConfig(BaseModel):
    """Configuration of a worker, passed as one JSON argument."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    device: str
    data_dir: str  # absolute; the root of scratch, and of all storage keys without object storage
    storage: StorageSettings | None = None  # the secret is in SECRET_VARIABLE: other users can read arguments
    clears_scratch: bool = False  # on a machine where the main process cannot do it
    threads: int = 0  # 0: all cores
    models_dir: str | None = None
    cache_dir: str
    model_memory_bytes: int
    heartbeat_s: float
    precision: str = "auto"
    compile: bool = False
    decode_timeout_s: float
    child_memory_bytes: int
    input_bytes: int
    log_level: str = "INFO"
    json_lines: bool = False  # log format


class Start(Message):
    type: Literal["start"] = "start"
    spec: AttemptSpec


class Cancel(Message):
    type: Literal["cancel"] = "cancel"
    job_id: str
    attempt: int


class Shutdown(Message):
    type: Literal["shutdown"] = "shutdown"


class ModelState(BaseModel):
    """Availability of a model on a worker."""

    name: str
    state: State
    reason: str | None = None
    version: str | None = None  # of its weights, if they are on the machine
    size_bytes: int | None = None  # of its files, if they are on the machine

    def with_version(self, versions: Mapping[str, str | None]) -> Self:
        """Return the state where the weights of each model have these versions."""
        version = join_versions([versions.get(step) for step in steps_of(self.name)])
        if version is None or version == self.version:
            return self
        return self.model_copy(update={"state": "ready", "reason": None, "version": version})


class Ready(Message):
    type: Literal["ready"] = "ready"
    device: str  # "cpu", "cuda:0"
    device_name: str
    models: tuple[ModelState, ...]
    stands_in: bool = False
    """Whether the CPU works in place of a GPU that failed its test."""

    def with_version(self, name: str, version: str | None) -> Self:
        """Return the message with the weights of a model, or of its steps, that may have been downloaded since."""
        found = dict(zip(steps_of(name), (version or "").split("+"), strict=False)) if version is not None else {}
        versions = {state.name: found.get(state.name, state.version) for state in self.models}
        return self.model_copy(update={"models": tuple(state.with_version(versions) for state in self.models)})


class Progress(Message):
    type: Literal["progress"] = "progress"
    job_id: str
    attempt: int
    stage: Stage
    fraction: float = Field(ge=0, le=1)
    on_cpu: bool = False  # the GPU was out of memory, so the slower CPU continues


class Heartbeat(Message):
    type: Literal["heartbeat"] = "heartbeat"
    rss_bytes: int
    device_bytes: int | None = None


class Done(Message):
    type: Literal["done"] = "done"
    job_id: str
    attempt: int
    result: JobResult
    separating_s: float  # wall seconds from the first to the last segment
    input_duration_s: float


class Failed(Message):
    type: Literal["failed"] = "failed"
    job_id: str
    attempt: int
    code: str
    message: str
    detail: str | None = None


ToWorker = Annotated[Start | Cancel | Shutdown, Field(discriminator="type")]
FromWorker = Annotated[Ready | Progress | Heartbeat | Done | Failed, Field(discriminator="type")]
to_worker: TypeAdapter[Start | Cancel | Shutdown] = TypeAdapter(ToWorker)
from_worker: TypeAdapter[Ready | Progress | Heartbeat | Done | Failed] = TypeAdapter(FromWorker)
