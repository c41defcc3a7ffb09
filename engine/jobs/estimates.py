"""How long a job will take: learned seconds of processing per second of audio, and a first guess until then."""

from __future__ import annotations

from engine.jobs.job import Job, JobStatus
from engine.jobs.options import Quality, StemSeparationOptions

_GUESS_ON_CPU: dict[str, float] = {
    "htdemucs": 1.1,
    "htdemucs_ft": 4.4,
    "htdemucs_6s": 1.2,
    "hdemucs_mmi": 1.0,
    "mdx_extra": 4.0,
    "mdx_extra_q": 4.0,
    "hdemucs_high": 1.0,
    "mini": 0.15,
}
"""Seconds per second of audio, one shift, on two CPU cores: used only before the first job of its kind has run."""

_GUESS_GPU_IS_FASTER = 40.0
_QUALITY_COST = {Quality.FAST: 0.85, Quality.BALANCED: 1.0, Quality.BEST: 2.0}
_FIXED_S = 2.0  # decoding, encoding, publishing


def first_guess(model: str, quality: Quality, device: str) -> float:
    """Seconds of processing per second of audio for a (model, quality, device) that has not been measured yet."""
    cost = _GUESS_ON_CPU.get(model, 1.0) * _QUALITY_COST[quality]
    return cost if device == "cpu" or "cpu" in device.lower() else cost / _GUESS_GPU_IS_FASTER


_USUAL_OVERLAP = 0.25
_USUAL_SEGMENT_S = 7.8
_TELLING_S = 30.0
MAX_OVERLAP = 0.75
"""More than this multiplies the work without being heard."""


def overlap_of(options: StemSeparationOptions, model_segment_s: float) -> float | None:
    """The overlap as a fraction of a segment, where one was asked for in seconds."""
    if options.overlap_duration is None:
        return None
    return min(MAX_OVERLAP, options.overlap_duration / (options.segment_duration or model_segment_s))


def plan_cost(options: StemSeparationOptions) -> float:
    """How many times the usual work the options' own segments and overlap make."""
    overlap = overlap_of(options, _USUAL_SEGMENT_S)
    return 1.0 if overlap is None else max(1.0, (1 - _USUAL_OVERLAP) / (1 - overlap))


def is_default_plan(options: StemSeparationOptions) -> bool:
    """Whether a job with these options costs what others of its model and quality cost."""
    return not options.remove_vocals and options.segment_duration is None and options.overlap_duration is None


def is_long_enough_to_learn(audio_s: float) -> bool:
    """Whether what a job of this length costs tells what a song will: a clip is filled up to a whole segment."""
    return audio_s >= _TELLING_S


def estimate_s(seconds_per_second: float, audio_s: float) -> int:
    """Whole seconds that a job over `audio_s` of audio is expected to take once it has started."""
    return max(1, round(_FIXED_S + seconds_per_second * audio_s))


def timeout_s(audio_s: float, expected_s: float, *, short_track_s: float, short_s: float, long_s: float) -> float:
    """The attempt's deadline: the limit for short or long tracks, or three times what this device is expected to
    need where that is more."""
    return max(short_s if audio_s <= short_track_s else long_s, 3 * expected_s)


def remaining_s(job: Job, progress: int, elapsed_s: float) -> float:
    """Seconds until a running job is done: by its own pace once that can be seen, by the estimate before. `progress`:
    of this attempt, in percent, after `elapsed_s`."""
    if progress >= 20 and elapsed_s > 0:
        return max(1.0, elapsed_s * (100 - progress) / progress)
    return max(1.0, job.estimated_duration * (100 - progress) / 100)


def eta_s(job: Job, *, running_s: float, ahead_s: float, lanes: int) -> float:
    """Seconds until a pending job is done: what runs and what is ahead of it, over the devices there are."""
    assert job.status is JobStatus.PENDING
    return (running_s + ahead_s) / max(1, lanes) + job.estimated_duration
