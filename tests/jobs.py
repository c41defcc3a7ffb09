"""Jobs and a clock for tests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import count

from engine.database.queue_limits import Caps
from engine.jobs.entity import new_job_id
from engine.jobs.job import InputType, Job, JobStatus
from engine.jobs.options import OutputFormat, Quality, StemSeparationOptions
from engine.jobs.results import JobResult, StemFiles, StemInfo

START = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
NO_CAPS = Caps(per_owner=10**9, per_scope=10**9, total=10**9)


class Clock:
    """Stands still until it is moved."""

    def __init__(self, at: datetime = START) -> None:
        self.at = at

    def __call__(self) -> datetime:
        return self.at

    def move(self, **by: float) -> None:
        """`by` as for `timedelta`; negative moves it back."""
        self.at += timedelta(**by)


_steps = count()


def pending_job(
    owner: str = "discord:1",
    *,
    at: datetime | None = None,
    scope: str | None = None,
    quality: Quality = Quality.BALANCED,
    estimated_duration: int = 30,
    title: str = "audio",
    job_id: str | None = None,
) -> Job:
    """A new job. Without `at`, each is a millisecond younger than the one before."""
    made = at or START + timedelta(milliseconds=next(_steps))
    job_id = job_id or new_job_id(made)
    return Job(
        id=job_id,
        status=JobStatus.PENDING,
        created_at=made,
        updated_at=made,
        input_type=InputType.FILE_UPLOAD,
        input_source=f"jobs/{job_id}/input",
        model="htdemucs",
        options=StemSeparationOptions(quality=quality),
        estimated_duration=estimated_duration,
        owner=owner,
        scope=scope,
        title=title,
        input_duration=180.0,
    )


def result_of(job: Job, attempt: int = 1) -> JobResult:
    """What a worker might have made of it."""
    folder = f"jobs/{job.id}/a{attempt}"
    stems = {
        name: StemInfo(
            filename=f"{job.title} - {name}.mp3",
            path=f"{folder}/{job.title} - {name}.mp3",
            size=1000,
            duration=180.0,
            format=OutputFormat.MP3,
            sample_rate=44100,
            bitrate=320_000,
        )
        for name in ("vocals", "drums", "bass", "other")
    }
    return JobResult(
        job_id=job.id,
        output_dir=folder,
        stems=StemFiles(**stems),
        processing_time=21,
        model_used=job.model,
        file_size=4000,
    )
