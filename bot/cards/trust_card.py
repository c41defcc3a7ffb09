"""What was measured about a result, as lines of a Discord card."""

from __future__ import annotations

from bot.cards import text
from bot.text import size
from engine.jobs.results import JobResult, StemInfo
from engine.jobs.trust import music_facts, plan_fact, quality_facts, stem_level, sum_facts


def stem_phrase(stem: str, info: StemInfo) -> str:
    silent = info.silence_share is not None and info.silence_share >= 0.999
    return text.stem_size(stem, size(info.size), is_silent=silent)


def trust_card_lines(result: JobResult) -> list[str]:
    """Return a line per subject; silent stems are left out."""
    levels = [(stem.capitalize(), stem_level(info)) for stem, info in result.stems if info.level_db is not None]
    groups = [levels] if levels else []
    if result.music is not None and (music := music_facts(result.music)):
        groups.append(music)
    if (trust := result.trust) is not None:
        groups += [sum_facts(trust), [plan_fact(trust)]]
    if (quality := result.quality_metrics) is not None:
        groups += [[fact] for fact in quality_facts(quality)]
    lines = [" · ".join(f"{label}: {text}" for label, text in facts) for facts in groups]
    notes = trust.notes if trust is not None else ()
    return [*(line[0].upper() + line[1:] for line in lines), *notes]
