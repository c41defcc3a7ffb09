"""The state of models and workers, for front ends and the operator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.database.job_store import JobStore
from engine.dispatch.progress import ProgressTracker
from engine.jobs.job import JobStatus
from engine.jobs.models import MODELS, ModelInfo, traits
from engine.pool.pool import WorkerPool


@dataclass(frozen=True)
class ModelChoice:
    """A model as a front end offers it; `reason`: why it is not usable."""

    name: str
    info: ModelInfo
    usable: bool
    reason: str | None = None
    is_downloaded: bool = False
    size_bytes: int | None = None  # of its weights on this machine

    @property
    def traits(self) -> list[str]:
        """Its stems, cost, licence and state, in short phrases."""
        return traits(self.info, is_downloaded=self.is_downloaded, size_bytes=self.size_bytes)

    @property
    def summary(self) -> str:
        """Its traits and description in one line."""
        return " · ".join([*self.traits, self.info.description])


@dataclass(frozen=True)
class WorkerSnapshot:
    """State of one worker, for the operator."""

    device: str
    ready: bool
    attempts: int
    deaths: int
    rss_bytes: int
    device_bytes: int | None


@dataclass(frozen=True)
class ServiceSnapshot:
    """Health of the backend, for `/readyz` and `/metrics`."""

    jobs: dict[JobStatus, int]
    workers: tuple[WorkerSnapshot, ...]
    usable_models: tuple[str, ...]
    stage_seconds: dict[str, float] = field(default_factory=dict)  # summed over all attempts of this process
    audio_seconds: float = 0.0  # separated by this process
    processing_seconds: float = 0.0  # spent on it
    cluster_problem: str | None = None  # a problem with the cluster


def model_choices(pool: WorkerPool) -> list[ModelChoice]:
    """Return all models, usable ones first."""
    states = pool.models
    choices = []
    for name, info in MODELS.items():
        state = states.get(name)
        usable = state is None or state.state != "unavailable"
        is_ready = state is not None and state.state == "ready"
        reason = None if usable or state is None else state.reason
        size_bytes = None if state is None else state.size_bytes
        choices.append(ModelChoice(name, info, usable, reason, is_ready, size_bytes))
    return sorted(choices, key=lambda choice: not choice.usable)


def ready_models(choices: Sequence[ModelChoice]) -> list[str]:
    """Return the models that are on the machine."""
    return [choice.name for choice in choices if choice.usable and choice.is_downloaded]


async def take_snapshot(store: JobStore, pool: WorkerPool, progress: ProgressTracker) -> ServiceSnapshot:
    """Return the health of the backend. Raises `StemifyError` if the database does not respond."""
    return ServiceSnapshot(
        jobs=await store.counts(),
        workers=tuple(
            WorkerSnapshot(
                device=worker.name,
                ready=worker.ready is not None,
                attempts=worker.attempts,
                deaths=worker.deaths,
                rss_bytes=worker.heartbeat.rss_bytes if worker.heartbeat else 0,
                device_bytes=worker.heartbeat.device_bytes if worker.heartbeat else None,
            )
            for worker in pool.workers
        ),
        usable_models=tuple(name for name, state in pool.models.items() if state.state != "unavailable"),
        stage_seconds=dict(progress.stage_seconds),
        audio_seconds=progress.audio_seconds,
        processing_seconds=progress.processing_seconds,
        cluster_problem=pool.cluster_problem,
    )
