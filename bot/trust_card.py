"""What was measured about a result, in the words of a Discord card."""

from __future__ import annotations

from bot.text import format_db, size
from engine.jobs.results import JobResult, QualityMetrics, StemFiles, StemInfo, TrustCard


def stem_phrase(stem: str, info: StemInfo) -> str:
    silent = info.silence_share is not None and info.silence_share >= 0.999
    return f"**{stem.capitalize()}** {size(info.size)}{' (silent)' if silent else ''}"


def measured_lines(result: JobResult) -> list[str]:
    """The trust card, a line a subject, then what is worth a remark."""
    lines = _level_lines(result.stems)
    if (trust := result.trust) is not None:
        lines += [_sum_line(trust), _plan_line(trust)]
    if (quality := result.quality_metrics) is not None:
        lines += _quality_lines(quality)
    return lines + (list(trust.notes) if trust is not None else [])


def _level_lines(stems: StemFiles) -> list[str]:
    """Level and peak of each stem that is heard, and how much of the song it is silent for."""
    words = []
    for stem, info in stems:
        if info.level_db is None or info.peak_db is None:
            continue
        silent = f", silent {info.silence_share:.0%}" if 0.005 <= (info.silence_share or 0) < 0.999 else ""
        words.append(f"{stem.capitalize()} {format_db(info.level_db)} (peak {format_db(info.peak_db)}{silent})")
    return [f"Levels in dBFS: {' · '.join(words)}"] if words else []


def _sum_line(trust: TrustCard) -> str:
    adds_up = (
        "The stems add up to the mix exactly"
        if trust.residual_db is None
        else f"The stems add up to the mix within {format_db(trust.residual_db)} dB"
    )
    gain = "unchanged" if abs(trust.gain_db) < 0.05 else f"{format_db(trust.gain_db)} dB on all"
    clipped = "nothing clipped" if not trust.clipped_samples else f"{trust.clipped_samples} samples clipped"
    offset = f" · constant offset (DC) of {trust.offset:.2%} removed" if trust.offset else ""
    return f"{adds_up} · level {gain} · {clipped}{offset}"


def _plan_line(trust: TrustCard) -> str:
    shifts = f"{trust.shifts} shift{'s' * (trust.shifts != 1)}" if trust.shifts else "no shifts"
    return f"{trust.segments} × {trust.segment_s:.1f} s · overlap {trust.overlap:.0%} · {shifts} · seed {trust.seed}"


def _quality_lines(quality: QualityMetrics) -> list[str]:
    parts = [
        f"{word} {score:.0%}"
        for word, score in (
            ("vocals", quality.vocal_isolation),
            ("drums", quality.drum_separation),
            ("bass", quality.bass_isolation),
            ("few artefacts", quality.artifact_reduction),
        )
        if score is not None
    ]
    overall = " · ".join([f"Estimated quality {quality.overall_score:.0%}", *parts])
    doubt = ["The song is short, so take the estimate as a rough one."] if quality.low_confidence else []
    return [overall, *([quality.advice] if quality.advice else []), *doubt, f"Method: {quality.method}"]
