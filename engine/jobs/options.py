"""Qualities, output formats, and the options of a job."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from typing import Self

from pydantic import Field, model_validator

from engine.errors import BadOptions
from engine.jobs.comparison import Comparison
from engine.jobs.entity import Entity
from engine.jobs.models import MODELS, ModelName, better_model, stems_of, unknown_model

STEMS = ("vocals", "drums", "bass", "guitar", "piano", "other")
"""Stems that a model may produce, in display order."""

DISPLAY_ORDER = (*STEMS, "instrumental")
"""Files of a result, in the order of every list and picture of them."""


class Quality(StrEnum):
    FAST = "fast"
    BALANCED = "balanced"
    BEST = "best"


class OutputFormat(StrEnum):
    WAV = "wav"
    MP3 = "mp3"
    FLAC = "flac"
    STEM = "stem"  #: mp3, and one file for DJ software with the mix and four stems

    @property
    def of_stems(self) -> OutputFormat:
        """The format of the single stems."""
        return OutputFormat.MP3 if self is OutputFormat.STEM else self


class StemSeparationOptions(Entity):
    """Options of a job."""

    model: ModelName = "htdemucs"
    quality: Quality = Quality.BALANCED
    output_format: OutputFormat = OutputFormat.MP3
    normalize: bool = False
    remove_vocals: bool = False
    segment_duration: float | None = Field(default=None, ge=1, le=600, allow_inf_nan=False)  # seconds
    overlap_duration: float | None = Field(default=None, ge=0, le=600, allow_inf_nan=False)  # seconds
    # Absent from JSON unless the job compares models: stored options are compared as text.
    comparison: Comparison | None = Field(
        default=None, exclude_if=lambda value: value is None, json_schema_extra={"readOnly": True}
    )

    @model_validator(mode="after")
    def _overlap_is_shorter_than_segment(self) -> Self:
        if (
            self.segment_duration is not None
            and self.overlap_duration is not None
            and self.overlap_duration >= self.segment_duration
        ):
            raise ValueError("overlap_duration must be shorter than segment_duration")
        return self

    @model_validator(mode="after")
    def _stem_file_has_four_stems(self) -> Self:
        if self.output_format is OutputFormat.STEM and self.remove_vocals:
            raise ValueError("a stem file needs four stems, and karaoke gives two; leave one of the two options out")
        if self.output_format is OutputFormat.STEM and not {*stems_of("htdemucs")} <= {*stems_of(self.model)}:
            raise ValueError(
                f"a stem file needs vocals, drums, bass and other, and {self.model} gives "
                f"{' and '.join(stems_of(self.model))}; choose another model or format"
            )
        return self

    @model_validator(mode="after")
    def _karaoke_has_vocals(self) -> Self:
        if self.remove_vocals and "vocals" not in stems_of(self.model):
            raise ValueError(f"karaoke needs vocals, and {self.model} gives {' and '.join(stems_of(self.model))}")
        return self

    @property
    def models(self) -> tuple[str, ...]:
        """The models of a job: `model`, or the compared ones."""
        return (self.model,) if self.comparison is None else self.comparison.models

    @classmethod
    def from_user(cls, *, ready: Collection[str] = (), **values: object) -> Self:
        """Return options from user input, where None means the default.

        `ready`: the models that are on the machine; the default may be one of them.

        Raises `UnknownModel`, `BadOptions`.
        """
        chosen = {name: value for name, value in values.items() if value is not None}
        model = chosen.get("model")
        if model is not None and model not in MODELS:
            raise unknown_model(str(model))
        if model is None:
            best, karaoke = chosen.get("quality") == Quality.BEST, chosen.get("remove_vocals") is True
            chosen["model"] = better_model(best=best, karaoke=karaoke, ready=ready)
        try:
            options = cls.model_validate(chosen)
        except ValueError as error:
            raise BadOptions(_describe_first_error(error)) from error
        if model is None:
            options.model_fields_set.discard("model")
        return options


def _describe_first_error(error: ValueError) -> str:
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    if not name:  # about several options
        message = first["msg"].removeprefix("Value error, ")
        return f"{message[:1].upper()}{message[1:]}."
    return f"The option {name} is invalid: {first['msg']}."
