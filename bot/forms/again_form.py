"""The form of the button *Separate again…*: other options for the song of a job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import discord

from bot.forms.form import choice, form
from bot.submission.estimates import FORMAT_NOTES, format_note
from bot.text import clean
from engine.jobs.job import Job
from engine.jobs.options import Quality
from engine.service.service import ModelChoice

_QUALITIES = {
    Quality.FAST: "least time",
    Quality.BALANCED: "the default of Demucs",
    Quality.BEST: "two passes: takes twice as long",
}


def again_form(job: Job, models: Sequence[ModelChoice]) -> discord.ui.Modal:
    """Return a form with the options of the job; models that cannot be used here are left out."""
    options = job.options
    return form(
        "again",
        job.id,
        "Separate again",
        choice(
            "model",
            "Model",
            [_option(each.name, each.summary, options.model) for each in models if each.usable][:25],
        ),
        choice("quality", "Quality", [_option(each, note, options.quality) for each, note in _QUALITIES.items()]),
        choice(
            "output_format",
            "Format",
            [_option(each, format_note(each), options.output_format) for each in FORMAT_NOTES],
        ),
        choice(
            "stems",
            "Stems",
            [
                discord.SelectOption(label="All stems", value="all", default=not options.remove_vocals),
                discord.SelectOption(label="Vocals and instrumental", value="karaoke", default=options.remove_vocals),
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
