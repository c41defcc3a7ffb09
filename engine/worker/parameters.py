"""Parameters of a separation, from the options of a job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from engine.jobs.estimates import overlap_of
from engine.jobs.options import Quality
from engine.worker.protocol import AttemptSpec

SHIFTS = {Quality.FAST: 0, Quality.BALANCED: 1, Quality.BEST: 2}
OVERLAPS = {Quality.FAST: 0.1, Quality.BALANCED: 0.25, Quality.BEST: 0.25}


@dataclass(frozen=True)
class SeparationParameters:
    shifts: int
    overlap: float  # fraction of a segment
    segment_s: float | None  # None: the model's default

    @classmethod
    def of(cls, spec: AttemptSpec, model_segment_s: float) -> Self:
        """Return the parameters for the attempt's options."""
        options = spec.options
        overlap = overlap_of(options, model_segment_s) if spec.overlap is None else spec.overlap
        if overlap is None:
            overlap = OVERLAPS[options.quality]
        shifts = SHIFTS[options.quality] if spec.shifts is None else spec.shifts
        return cls(shifts, overlap, options.segment_duration)
