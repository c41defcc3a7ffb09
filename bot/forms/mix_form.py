"""The form of the button *Mix…*, and the mix that a filled one asks for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import discord

from bot.forms.form import choice, form, text
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
    options = [discord.SelectOption(label="Everything", value="all", default=True)]
    if len(stems) > 2:
        for stem in stems:
            label = "No vocals (karaoke)" if stem == "vocals" else f"No {stem}"
            options.append(discord.SelectOption(label=label, value=f"no {stem}"))
    options += [discord.SelectOption(label=f"Only {stem}", value=f"only {stem}") for stem in stems]
    return form(
        "mix",
        job.id,
        "Mix",
        choice("stems", "Stems", options),
        text("volumes", "Volumes", "In percent, for stems that you name", f"{stems[0]} 50, {stems[-1]} 120"),
        text("key", "Key", "Semitones up or down: -12 to 12", "0", length=10),
        text("tempo", "Tempo", "In percent of the song's: 50 to 150", "100", length=10),
        text("part", "Part", "From and to, in minutes and seconds", "0:30-1:15", length=20),
    )


def mix_request(values: Mapping[str, str], job: Job) -> MixRequest:
    """Return the mix that the form asks for. Raises `NotFound`, or `BadOptions` with a sentence for the user."""
    if job.result is None:
        raise NotFound
    stems = [stem for stem, _ in job.result.stems]
    gains = _gains_of_choice(values.get("stems", ""), stems) | _volumes(values.get("volumes", ""))
    fields: dict[str, object] = {"gains": {stem: gain for stem, gain in sorted(gains.items()) if gain != 1}}
    if key := values.get("key"):
        fields["key"] = _number(key, "Give the key in semitones, such as -2.")
    if tempo := values.get("tempo"):
        percent = _number(tempo.removesuffix("%"), "Give the tempo in percent, such as 90.")
        if not 50 <= percent <= 150:
            raise BadOptions("The tempo must be from 50 to 150 percent.")
        fields["tempo"] = percent / 100
    if part := values.get("part"):
        match = _PART.fullmatch(re.sub("[–—−]|to", "-", part))
        if match is None:
            raise BadOptions("Give the part as two times, such as 0:30-1:15.")
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
            raise BadOptions("Give volumes from 0 to 400 percent, such as: vocals 50, drums 120.")
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
