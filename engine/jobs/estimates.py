"""Estimated durations of jobs, from the measured processing time per second of audio."""

from __future__ import annotations

from engine.jobs.comparison import EXCERPT_S
from engine.jobs.job import Job, JobStatus
from engine.jobs.models import MODELS
from engine.jobs.options import Quality, StemSeparationOptions

_HTDEMUCS_ON_CPU = 1.1
"""Seconds per second of audio, one shift, on two CPU cores; used until a job of that kind has been measured."""

_GUESS_GPU_IS_FASTER = 40.0
_QUALITY_COST = {Quality.FAST: 0.85, Quality.BALANCED: 1.0, Quality.BEST: 2.0}
_FIXED_S = 2.0  # decoding, encoding, publishing


def first_guess(model: str, quality: Quality, device: str) -> float:
    """Return the assumed processing seconds per second of audio, for a combination that has not been measured."""
    cost = _HTDEMUCS_ON_CPU * relative_cost(model) * _QUALITY_COST[quality]
    return cost if device == "cpu" or "cpu" in device.lower() else cost / _GUESS_GPU_IS_FASTER


def relative_cost(model: str) -> float:
    """Return the assumed time of a model, where htdemucs takes 1."""
    return MODELS[model].cost if model in MODELS else 1.0


_DEFAULT_OVERLAP = 0.25
_DEFAULT_SEGMENT_S = 7.8
_MIN_LEARNING_S = 30.0
MAX_OVERLAP = 0.75
"""More overlap multiplies the work without an audible difference."""


def overlap_of(options: StemSeparationOptions, model_segment_s: float) -> float | None:
    """Return the requested overlap as a fraction of a segment, or None for the default."""
    if options.overlap_duration is None:
        return None
    return min(MAX_OVERLAP, options.overlap_duration / (options.segment_duration or model_segment_s))


def plan_cost(options: StemSeparationOptions) -> float:
    """Return the work that custom segments and overlap cause, relative to the default."""
    overlap = overlap_of(options, _DEFAULT_SEGMENT_S)
    return 1.0 if overlap is None else max(1.0, (1 - _DEFAULT_OVERLAP) / (1 - overlap))


def is_default_plan(options: StemSeparationOptions) -> bool:
    """Return whether a job with these options costs as much as others of its model and quality."""
    changes = (options.segment_duration, options.overlap_duration, options.comparison)
    return not options.remove_vocals and all(change is None for change in changes)


def parts_of(options: StemSeparationOptions, audio_s: float) -> list[tuple[str, float]]:
    """Return the models that a job runs, and how many of its `audio_s` seconds each separates."""
    part_s = audio_s if options.comparison is None else min(audio_s, EXCERPT_S)
    return [(model, part_s) for model in options.models]


def is_long_enough_to_learn(audio_s: float) -> bool:
    """Return whether the cost of a job of this length is typical: short clips are padded to a whole segment."""
    return audio_s >= _MIN_LEARNING_S


def estimate_s(separating_s: float) -> int:
    """Return the expected whole seconds of a job, from its start."""
    return max(1, round(_FIXED_S + separating_s))


def timeout_s(audio_s: float, expected_s: float, *, short_track_s: float, short_s: float, long_s: float) -> float:
    """Return the deadline of an attempt: the limit for its length, or three times the expected time if that is more."""
    return max(short_s if audio_s <= short_track_s else long_s, 3 * expected_s)


def remaining_s(job: Job, progress: int, elapsed_s: float) -> float:
    """Return the remaining seconds of a running job: by its own pace from 20 % on, by the estimate before.

    `progress`: percent of this attempt after `elapsed_s`.
    """
    if progress >= 20 and elapsed_s > 0:
        return max(1.0, elapsed_s * (100 - progress) / progress)
    return max(1.0, job.estimated_duration * (100 - progress) / 100)


def eta_s(job: Job, *, running_s: float, ahead_s: float, lanes: int) -> float:
    """Return the seconds until a pending job is done, given the work ahead of it and the number of devices."""
    assert job.status is JobStatus.PENDING
    return (running_s + ahead_s) / max(1, lanes) + job.estimated_duration
