"""What the main process and a worker say to each other: one JSON object a line, over the worker's stdin and stdout.

In: `start`, `cancel`, `shutdown`. Out: `ready`, `progress`, `heartbeat`, `done`, `failed`. A worker's word is bound to
(job_id, attempt), so that a late word about a lost attempt can be told from a true one.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from config.settings import Storage as StorageSettings
from engine.jobs.job import Stage
from engine.jobs.options import StemSeparationOptions
from engine.jobs.results import JobResult

SECRET_VARIABLE = "STEMIFY_STORAGE__SECRET_ACCESS_KEY"  # noqa: S105


class Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    def line(self) -> bytes:
        return self.model_dump_json().encode() + b"\n"


class AttemptSpec(BaseModel):
    """Everything a worker needs to know to run one attempt of one job."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    job_id: str
    attempt: int
    input_key: str  # the three are storage keys: where the song lies,
    scratch_key: str  # a folder on the worker's own disk, the attempt's own, removed by the main process afterwards,
    output_key: str  # and where the finished files appear
    options: StemSeparationOptions
    title: str
    artist: str | None = None
    seed: int
    max_duration_s: float
    shifts: int | None = None  # None: what the quality says
    overlap: float | None = None  # fraction of a segment; None: what the quality says


class WorkerConfig(BaseModel):
    """What a worker is started with, as one JSON argument."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    device: str
    data_dir: str  # absolute; the root of scratch, and of all storage keys unless `storage` has a url
    storage: StorageSettings | None = None  # its secret comes in SECRET_VARIABLE: arguments can be read by others
    clears_scratch: bool = False  # on a machine on which the main process cannot
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
    json_lines: bool = False  # how it writes its log


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
    """Whether a model can be used on a worker: on disk, to be fetched at first use, or why not."""

    name: str
    state: Literal["ready", "to_fetch", "unavailable"]
    reason: str | None = None


class Ready(Message):
    type: Literal["ready"] = "ready"
    device: str  # "cpu", "cuda:0"
    device_name: str
    models: tuple[ModelState, ...]


class Progress(Message):
    type: Literal["progress"] = "progress"
    job_id: str
    attempt: int
    stage: Stage
    fraction: float = Field(ge=0, le=1)
    on_cpu: bool = False  # the worker's GPU had no memory left, so its CPU goes on, and more slowly


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
