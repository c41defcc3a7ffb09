"""The form of the button *Mix…*, and the mix that a filled one asks for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import discord

from bot.forms import text
from bot.forms.form import choice, form, line
from engine.errors import BadOptions, NotFound
from engine.jobs.job import Job
from engine.service.service import MixRequest

_VOLUME = re.compile(r"([a-z]+)\s*[:=]?\s*(\d+(?:[.,]\d+)?)\s*%?")
_NUMBER = re.compile(r"[-+]?\d+(?:[.,]\d+)?")
_TIME = r"(?:\d+:)?\d+(?:[.,]\d+)?"
_PART = re.compile(rf"({_TIME})?\s*-\s*({_TIME})?")


def mix_form(job: Job) -> discord.ui.Modal:
    """Return an empty form. Raises `NotFound` without a result."""
    if job.result is None:
        raise NotFound
    stems = [stem for stem, _ in job.result.stems]
    options = [discord.SelectOption(label=text.EVERYTHING, value="all", default=True)]
    if len(stems) > 2:
        for stem in stems:
            options.append(discord.SelectOption(label=text.without(stem), value=f"no {stem}"))
    options += [discord.SelectOption(label=text.only(stem), value=f"only {stem}") for stem in stems]
    return form(
        "mix",
        job.id,
        text.MIX,
        choice("stems", text.STEMS, options),
        line("volumes", text.VOLUMES, text.VOLUMES_HELP, text.volumes_example(stems[0], stems[-1])),
        line("key", text.KEY, text.KEY_HELP, "0", length=10),
        line("tempo", text.TEMPO, text.TEMPO_HELP, "100", length=10),
        line("part", text.PART, text.PART_HELP, "0:30-1:15", length=20),
    )


def mix_request(values: Mapping[str, str], job: Job) -> MixRequest:
    """Return the mix that the form asks for. Raises `NotFound`, or `BadOptions` with a sentence for the user."""
    if job.result is None:
        raise NotFound
    stems = [stem for stem, _ in job.result.stems]
    gains = _gains_of_choice(values.get("stems", ""), stems) | _volumes(values.get("volumes", ""))
    fields: dict[str, object] = {"gains": {stem: gain for stem, gain in sorted(gains.items()) if gain != 1}}
    if key := values.get("key"):
        fields["key"] = _number(key, text.BAD_KEY)
    if tempo := values.get("tempo"):
        percent = _number(tempo.removesuffix("%"), text.BAD_TEMPO)
        if not 50 <= percent <= 150:
            raise BadOptions(text.TEMPO_OUT_OF_RANGE)
        fields["tempo"] = percent / 100
    if part := values.get("part"):
        match = _PART.fullmatch(re.sub("[–—−]|to", "-", part))
        if match is None:
            raise BadOptions(text.BAD_PART)
        fields |= {name: _seconds(time) for name, time in zip(("from", "to"), match.groups(), strict=True) if time}
    return MixRequest.from_user(fields)


def _gains_of_choice(chosen: str, stems: Sequence[str]) -> dict[str, float]:
    kind, _, named = chosen.partition(" ")
    if kind == "no":
        return {named: 0.0}
    return {stem: 0.0 for stem in stems if stem != named} if kind == "only" else {}


def _volumes(words: str) -> dict[str, float]:
    gains = {}
    for word in re.split(r"[,;\n]", words.lower()):
        if not word.strip():
            continue
        match = _VOLUME.fullmatch(word.strip())
        if match is None or float(match[2].replace(",", ".")) > 400:
            raise BadOptions(text.BAD_VOLUMES)
        gains[match[1]] = float(match[2].replace(",", ".")) / 100
    return gains


def _number(word: str, advice: str) -> float:
    word = word.strip().replace("\N{MINUS SIGN}", "-")
    if _NUMBER.fullmatch(word) is None:
        raise BadOptions(advice)
    return float(word.replace(",", "."))


def _seconds(time: str) -> float:
    minutes, _, seconds = time.rpartition(":")
    return 60 * float(minutes or 0) + float(seconds.replace(",", "."))
