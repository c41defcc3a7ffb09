"""Deadlines of attempts, from the measured speed of the device."""

from __future__ import annotations

from config.settings import Workers
from engine.database.job_store import JobStore
from engine.jobs.estimates import (
    estimate_s,
    first_guess,
    is_default_plan,
    plan_cost,
    timeout_s,
)
from engine.jobs.job import Job


class DeviceSpeed:
    def __init__(self, store: JobStore, workers: Workers) -> None:
        self._store = store
        self._workers = workers

    async def deadline_s(self, job: Job, audio_s: float, device: str) -> float:
        """Return how many seconds an attempt over `audio_s` of audio may take on `device`."""
        learned = await self._store.speeds.get(job.model, job.options.quality, device)
        speed = learned or first_guess(job.model, job.options.quality, device)
        return timeout_s(
            audio_s,
            # Each attempt that shares the device may slow this one down by as much as it costs alone.
            estimate_s(speed * plan_cost(job.options), audio_s) * self._workers.attempts_per_worker,
            short_track_s=self._workers.short_track_s,
            short_s=self._workers.short_timeout_s,
            long_s=self._workers.long_timeout_s,
        )

    async def learn(self, job: Job, device: str, *, processing_s: float, audio_s: float) -> None:
        """Record a measurement. Karaoke and custom segments are ignored: their cost differs."""
        if is_default_plan(job.options):
            await self._store.speeds.learn(
                job.model, job.options.quality, device, processing_s=processing_s, audio_s=audio_s
            )
