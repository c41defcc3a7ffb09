"""What a client asks for, a mix or a version of a job, and what it gets."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import AwareDatetime, Field, ValidationError, model_validator

from engine.jobs.entity import Entity
from engine.mixes.errors import BadMix


class MixFormat(StrEnum):
    MP3 = "mp3"
    WAV = "wav"
    FLAC = "flac"


MAX_GAIN = 4.0
MAX_KEY = 12.0
MIN_TEMPO, MAX_TEMPO = 0.5, 1.5

Gain = Annotated[float, Field(ge=0, le=MAX_GAIN, allow_inf_nan=False, strict=True)]
Pan = Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False, strict=True)]
Seconds = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False, strict=True)]
Key = Annotated[float, Field(ge=-MAX_KEY, le=MAX_KEY, allow_inf_nan=False, strict=True)]
Tempo = Annotated[float, Field(ge=MIN_TEMPO, le=MAX_TEMPO, allow_inf_nan=False, strict=True)]

_RULES = {
    "gains": f"A gain must be a number from 0 to {MAX_GAIN:g}, one for each stem.",
    "pans": "A pan must be a number from -1 (left) to 1 (right), one for each stem.",
    "from": "The time from must be a number of seconds, 0 or more.",
    "to": "The time to must be a number of seconds, 0 or more.",
    "key": f"The key must be a number of semitones from -{MAX_KEY:g} to {MAX_KEY:g}.",
    "tempo": f"The tempo must be a number from {MIN_TEMPO:g} to {MAX_TEMPO:g}.",
    "preview": "The value of preview must be true or false.",
    "format": f"The format must be one of: {', '.join(each.value for each in MixFormat)}.",
}


class Change(Entity):
    """Another key and tempo."""

    key: Key = 0.0
    """Semitones."""
    tempo: Tempo = 1.0
    """1 is the tempo of the song, 0.5 half of it."""

    @classmethod
    def from_user(cls, values: dict[str, Any]) -> Self:
        """Return the request from JSON. Raises `BadMix` with the rule that it breaks."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0]) if first["loc"] else ""
            known = [field.alias or key for key, field in cls.model_fields.items()]
            if first["type"] == "extra_forbidden":
                raise BadMix(f"Unknown field {name!r:.40}. The fields are: {', '.join(known)}.") from None
            raise BadMix(_RULES.get(name) or str(first["msg"]).removeprefix("Value error, ")) from None


class VersionRequest(Change):
    """All stems in another key and at another tempo."""

    preview: Annotated[bool, Field(strict=True)] = False
    """As small mp3 files for slow lines, whatever the format of the job is."""


class MixRequest(Change):
    """One file of a job's stems."""

    gains: dict[str, Gain] = Field(default_factory=dict, max_length=16)
    """By stem; 1 for the stems that are not named."""
    pans: dict[str, Pan] = Field(default_factory=dict, max_length=16)
    """By stem, from -1 (left) to 1 (right); 0 for the stems that are not named."""
    start_s: Seconds | None = Field(default=None, alias="from")
    end_s: Seconds | None = Field(default=None, alias="to")
    format: MixFormat = MixFormat.MP3

    @model_validator(mode="after")
    def _range_is_not_empty(self) -> Self:
        if self.end_s is not None and (self.start_s or 0.0) >= self.end_s:
            raise ValueError("The time from must be before the time to.")
        return self


class Mix(Entity):
    """A finished mix."""

    name: str
    filename: str
    url: str
    size: int  # bytes
    expires_at: AwareDatetime | None  # None: the job is kept
    gain_db: float  # relative to the song; below 0 if the sum would clip


class VersionStem(Entity):
    """One file of a version."""

    filename: str
    url: str
    size: int  # bytes


class Version(Entity):
    """A finished version: its stems have the same length and are aligned to the sample."""

    name: str
    key: float
    tempo: float
    stems: dict[str, VersionStem]
    expires_at: AwareDatetime | None
    gain_db: float  # of all stems, relative to the song
