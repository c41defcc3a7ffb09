"""Deadlines of attempts, from the measured speed of the device."""

from __future__ import annotations

from config.settings import Workers
from engine.database.job_store import JobStore
from engine.jobs.estimates import (
    estimate_s,
    first_guess,
    is_default_plan,
    parts_of,
    plan_cost,
    timeout_s,
)
from engine.jobs.job import Job
from engine.jobs.options import StemSeparationOptions


async def expected_s(store: JobStore, options: StemSeparationOptions, audio_s: float, device: str) -> int:
    """Return the expected seconds of a job over `audio_s` of audio on `device`, from the learned speeds."""
    separating_s = 0.0
    for model, part_s in parts_of(options, audio_s):
        speed = await store.speeds.get(model, options.quality, device) or first_guess(model, options.quality, device)
        separating_s += speed * part_s
    return estimate_s(separating_s * plan_cost(options))


class DeviceSpeed:
    def __init__(self, store: JobStore, workers: Workers) -> None:
        self._store = store
        self._workers = workers

    async def deadline_s(self, job: Job, audio_s: float, device: str) -> float:
        """Return how many seconds an attempt over `audio_s` of audio may take on `device`."""
        alone_s = await expected_s(self._store, job.options, audio_s, device)
        return timeout_s(
            audio_s,
            # Each attempt that shares the device may slow this one down by as much as it costs alone.
            alone_s * self._workers.attempts_per_worker,
            short_track_s=self._workers.short_track_s,
            short_s=self._workers.short_timeout_s,
            long_s=self._workers.long_timeout_s,
        )

    async def learn(self, job: Job, device: str, *, processing_s: float, audio_s: float) -> None:
        """Record a measurement. Karaoke, custom segments and comparisons are ignored: their cost differs."""
        if is_default_plan(job.options):
            await self._store.speeds.learn(
                job.model, job.options.quality, device, processing_s=processing_s, audio_s=audio_s
            )
