"""Models and qualities as choices, with the time that each takes on this machine."""

from __future__ import annotations

from bot.client import Stemify
from bot.submission import text
from bot.text import clean, format_eta
from engine.errors import BadOptions
from engine.jobs.options import OutputFormat, Quality

SONG_MIN = 4  # of the song in the examples
_RATES = {  # in bits a second of all four stems
    OutputFormat.MP3: 4 * 320_000,
    OutputFormat.WAV: 4 * 44_100 * 2 * 24,
    OutputFormat.STEM: 4 * 320_000 + 5 * 256_000,
}


def format_note(output_format: OutputFormat) -> str:
    """Describe a format, with the size of four stems where it does not depend on the song."""
    note, rate = text.FORMATS[output_format], _RATES.get(output_format)
    if rate is None:
        return note
    return text.format_size(note, SONG_MIN, round(rate / 8 * 60 * SONG_MIN / 2**20))


async def model_choices(bot: Stemify, guild_id: int | None, quality: str | None) -> list[tuple[str, str]]:
    """Return name and description of every model, usable ones first."""
    default, choices = bot.options(guild_id, quality=_known(quality)).model, []
    for choice in bot.service.models():
        details = [text.not_available(choice.reason)]
        if choice.usable:
            details = [await _time(bot, guild_id, choice.name, quality), choice.summary]
        choices.append((choice.name, _label(choice.name, details, is_default=choice.name == default)))
    return choices


async def quality_choices(bot: Stemify, guild_id: int | None, model: str | None) -> list[tuple[str, str]]:
    """Return name and description of every quality."""
    default = bot.defaults(guild_id).default_quality
    choices = []
    for quality in Quality:
        better = bot.options(guild_id, quality=quality).model
        used = [better] if not model and better != bot.options(guild_id, quality=default).model else []
        details = [await _time(bot, guild_id, model, quality), *used]
        choices.append((quality.value, _label(quality, details, is_default=quality == default)))
    return choices


def _label(name: str, details: list[str], *, is_default: bool) -> str:
    return clean(text.choice(name, " · ".join([text.DEFAULT, *details] if is_default else details)), 100)


async def _time(bot: Stemify, guild_id: int | None, model: str | None, quality: str | None) -> str:
    """Return how long a song takes, from the measured speeds."""
    try:
        options = bot.options(guild_id, model=model, quality=_known(quality))
    except BadOptions:  # a model that is still being typed
        options = bot.options(guild_id, quality=_known(quality))
    duration_s = await bot.service.estimated_s(options, 60 * SONG_MIN)
    return text.song_takes(SONG_MIN, format_eta(duration_s).removeprefix("about "))


def _known(quality: str | None) -> str | None:
    """Return the quality, or None while it is still being typed."""
    return quality if quality in list(Quality) else None
