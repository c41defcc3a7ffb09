"""The form of the button *Separate again…*: other options for the song of a job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import discord

from bot.forms import text
from bot.forms.form import choice, form
from bot.submission.estimates import format_note
from bot.submission.text import FORMATS
from bot.text import clean
from engine.jobs.job import Job
from engine.service.service import ModelChoice


def again_form(job: Job, models: Sequence[ModelChoice]) -> discord.ui.Modal:
    """Return a form with the options of the job; models that cannot be used here are left out."""
    options = job.options
    return form(
        "again",
        job.id,
        text.AGAIN,
        choice(
            "model",
            text.MODEL,
            [_option(each.name, each.summary, options.model) for each in models if each.usable][:25],
        ),
        choice(
            "quality", text.QUALITY, [_option(each, note, options.quality) for each, note in text.QUALITIES.items()]
        ),
        choice(
            "output_format",
            text.FORMAT,
            [_option(each, format_note(each), options.output_format) for each in FORMATS],
        ),
        choice(
            "stems",
            text.STEMS,
            [
                discord.SelectOption(label=text.ALL_STEMS, value="all", default=not options.remove_vocals),
                discord.SelectOption(label=text.KARAOKE_STEMS, value="karaoke", default=options.remove_vocals),
            ],
        ),
    )


def changed_options(values: Mapping[str, str]) -> dict[str, object]:
    """Return the options that a filled form asks for."""
    return {
        **{name: values[name] for name in ("model", "quality", "output_format") if values.get(name)},
        "remove_vocals": values.get("stems") == "karaoke",
    }


def _option(value: str, description: str, current: str) -> discord.SelectOption:
    return discord.SelectOption(
        label=str(value), value=str(value), description=clean(description, 100), default=value == current
    )
