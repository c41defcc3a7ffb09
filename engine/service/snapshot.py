"""The state of models and workers, for front ends and the operator."""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.jobs.job import JobStatus


@dataclass(frozen=True)
class ModelChoice:
    """A model as a front end offers it; `reason`: why it is not usable."""

    name: str
    description: str
    usable: bool
    reason: str | None = None
    is_downloaded: bool = False
    size_bytes: int | None = None  # of its weights on this machine


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
