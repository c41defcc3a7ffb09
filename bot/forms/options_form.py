"""Forms with the options of a job: for a song before its separation, and for another separation of a job's song."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import discord

from bot.cards.text import KARAOKE_STEMS
from bot.forms import text
from bot.forms.form import FormName, choice, form
from bot.submission.estimates import format_note
from bot.submission.text import FORMATS
from bot.text import clean
from engine.errors import InvalidState
from engine.jobs.comparison import LABELS
from engine.jobs.job import Job
from engine.jobs.options import StemSeparationOptions
from engine.service.service import ModelChoice

LEAST_COMPARED = 2
MOST_OPTIONS = 25  # Discord's limit
AUTOMATIC = "automatic"
"""The model that fits the other options."""


def start_form(
    name: FormName, subject: str, defaults: StemSeparationOptions, models: Sequence[ModelChoice]
) -> discord.ui.Modal:
    """Return a form for songs; the model is chosen automatically unless the user picks one."""
    automatic = discord.SelectOption(
        label=text.AUTOMATIC, value=AUTOMATIC, description=text.AUTOMATIC_HELP, default=True
    )
    return _form(name, subject, text.START, [automatic, *_models(models, None)], defaults)


def again_form(job: Job, models: Sequence[ModelChoice]) -> discord.ui.Modal:
    """Return a form with the options of the job."""
    return _form("again", job.id, text.AGAIN, _models(models, job.options.model), job.options)


def compare_form(job: Job, models: Sequence[ModelChoice]) -> discord.ui.Modal:
    """Return a form for the models to compare. Raises `InvalidState` if there are fewer than two."""
    usable = _models(models, None)[:MOST_OPTIONS]
    if len(usable) < LEAST_COMPARED:
        raise InvalidState(text.TOO_FEW_MODELS)
    most = min(len(LABELS), len(usable))
    return form("compare", job.id, text.COMPARE, choice("models", text.MODELS, usable, least=LEAST_COMPARED, most=most))


def changed_options(values: Mapping[str, str]) -> dict[str, object]:
    """Return the options that the form of a job asks for."""
    return {
        **{name: values[name] for name in ("model", "quality", "output_format") if values.get(name)},
        "remove_vocals": values.get("stems") == "karaoke",
    }


def chosen_options(values: Mapping[str, str]) -> dict[str, object]:
    """Return what the form for songs asks for, as the arguments of `Stemify.options`."""
    chosen = changed_options(values)
    chosen["karaoke"] = chosen.pop("remove_vocals")
    if chosen.get("model") == AUTOMATIC:
        del chosen["model"]
    return chosen


def _form(
    name: FormName,
    subject: str,
    title: str,
    models: Sequence[discord.SelectOption],
    options: StemSeparationOptions,
) -> discord.ui.Modal:
    return form(
        name,
        subject,
        title,
        choice("model", text.MODEL, list(models[:MOST_OPTIONS])),
        choice("quality", text.QUALITY, _options(text.QUALITIES.items(), options.quality)),
        choice(
            "output_format",
            text.FORMAT,
            _options(((each, format_note(each)) for each in FORMATS), options.output_format),
        ),
        choice(
            "stems",
            text.STEMS,
            [
                discord.SelectOption(label=text.ALL_STEMS, value="all", default=not options.remove_vocals),
                discord.SelectOption(label=KARAOKE_STEMS, value="karaoke", default=options.remove_vocals),
            ],
        ),
    )


def _models(models: Iterable[ModelChoice], current: str | None) -> list[discord.SelectOption]:
    """Return the models that can be used here."""
    return _options(((each.name, each.summary) for each in models if each.usable), current)


def _options(values: Iterable[tuple[str, str]], current: str | None) -> list[discord.SelectOption]:
    return [
        discord.SelectOption(
            label=str(value), value=str(value), description=clean(description, 100), default=value == current
        )
        for value, description in values
    ]
