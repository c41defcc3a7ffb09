"""What was measured about a result, in words: (label, text) pairs for the terminal and for Discord."""

from __future__ import annotations

from engine.jobs.results import Music, QualityMetrics, StemInfo, TrustCard
from engine.jobs.words import word_of
from engine.text import plural

Fact = tuple[str, str]

SEPARATION_FAILED = "The separation failed"
"""How the notes about a failed separation begin."""


def stem_level(info: StemInfo) -> str:
    """Return level and peak of a stem, and the share of the song in which it is silent."""
    if info.level_db is None or info.peak_db is None:
        return "silent"
    share = info.silence_share or 0
    silent = f", silent for {share:.0%} of the song" if share >= 0.005 else ""
    return f"{info.level_db:.1f} dBFS, peak {info.peak_db:.1f} dBFS{silent}"


def sum_facts(trust: TrustCard) -> list[Fact]:
    """Return how the sum of the stems compares with the mix."""
    facts = [("in no stem", "nothing" if trust.residual_db is None else f"{trust.residual_db:.1f} dB of the mix")]
    if trust.offset:
        facts.append(("offset", f"up to {trust.offset:.2%} of full scale (DC), removed from all stems"))
    return [*facts, ("common gain", f"{trust.gain_db:+.2f} dB, {plural(trust.clipped_samples, 'clipped sample')}")]


def plan_fact(trust: TrustCard) -> Fact:
    segments = f"{plural(trust.segments, 'segment')} of {trust.segment_s:.3g} s"
    return ("plan", f"{segments}, overlap {trust.overlap:g}, shifts {trust.shifts}, seed {trust.seed}")


def quality_facts(quality: QualityMetrics) -> list[Fact]:
    """Return the estimated scores and, if the overall score is low, what to try."""
    scores = {
        "vocals": quality.vocal_isolation,
        "drums": quality.drum_separation,
        "bass": quality.bass_isolation,
    }
    parts = [f"{name} {_score(score)}" for name, score in scores.items() if score is not None]
    if quality.artifact_reduction is not None:
        parts.append(f"{quality.artifact_reduction:.0%} free of artefacts")
    doubt = ", uncertain because the song is short" if quality.low_confidence else ""
    doubt += "" if quality.validated else ", unvalidated"
    facts = [("quality", f"{_score(quality.overall_score)}{doubt}" + (f" ({', '.join(parts)})" if parts else ""))]
    return [*facts, ("advice", quality.advice)] if quality.advice else facts


def music_facts(music: Music) -> list[Fact]:
    """Return tempo and key in one line; nothing if neither is certain enough."""
    tempo = [] if music.tempo_bpm is None else [f"{music.tempo_bpm:.1f} BPM"]
    key = [] if music.key is None else [f"{music.key} ({music.camelot})"]
    return [("music", ", ".join(tempo + key))] if tempo or key else []


def _score(score: float) -> str:
    return f"{word_of(score)} {score:.0%}"
