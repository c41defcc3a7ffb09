"""What can be chosen: the models, the qualities, the formats, and what of them a job asks for."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from engine.errors import BadOptions, UnknownModel
from engine.jobs.entity import Entity

MODELS: dict[str, str] = {
    "htdemucs": "Hybrid Transformer Demucs, the standard",
    "htdemucs_ft": "fine-tuned, one network a stem: better, four times slower",
    "htdemucs_6s": "six stems, with guitar and piano (experimental)",
    "hdemucs_mmi": "Hybrid Demucs v3, retrained",
    "mdx_extra": "four Hybrid Demucs v3, MDX challenge",
    "mdx_extra_q": "the same, quantized: a smaller download (needs diffq)",
    "hdemucs_high": "torchaudio's Hybrid Demucs (needs torchaudio)",
    "mini": "small and embedded: works without a download, rougher results",
}
"""Every model that can be named, with a line for people."""

STEMS = ("vocals", "drums", "bass", "other", "guitar", "piano")
"""Stems that a model may give, in the order in which they are shown."""


class Quality(StrEnum):
    FAST = "fast"
    BALANCED = "balanced"
    BEST = "best"


class OutputFormat(StrEnum):
    WAV = "wav"
    MP3 = "mp3"
    FLAC = "flac"


def _supported_model(name: str) -> str:
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; there are: {', '.join(MODELS)}")
    return name


ModelName = Annotated[str, AfterValidator(_supported_model), Field(json_schema_extra={"enum": list(MODELS)})]


class StemSeparationOptions(Entity):
    """What the user chose."""

    model: ModelName = "htdemucs"
    quality: Quality = Quality.BALANCED
    output_format: OutputFormat = OutputFormat.MP3
    normalize: bool = False
    remove_vocals: bool = False
    segment_duration: float | None = Field(default=None, ge=1, le=600, allow_inf_nan=False)  # seconds
    overlap_duration: float | None = Field(default=None, ge=0, le=600, allow_inf_nan=False)  # seconds

    @model_validator(mode="after")
    def _overlap_is_shorter_than_segment(self) -> Self:
        if (
            self.segment_duration is not None
            and self.overlap_duration is not None
            and self.overlap_duration >= self.segment_duration
        ):
            raise ValueError("overlap_duration must be shorter than segment_duration")
        return self

    @classmethod
    def from_user(cls, **values: object) -> Self:
        """Options as a person gave them (None: not given). Raises `UnknownModel` or `BadOptions`."""
        given = {name: value for name, value in values.items() if value is not None}
        model = given.get("model")
        if model is not None and model not in MODELS:
            raise UnknownModel(f"There is no model {str(model)[:40]!r}. Choose one of: {', '.join(MODELS)}.")
        if model is None and given.get("quality") == Quality.BEST:
            given["model"] = "htdemucs_ft"
        try:
            return cls.model_validate(given)
        except ValueError as error:
            raise BadOptions(_first_complaint(error)) from error


def _first_complaint(error: ValueError) -> str:
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"]) or "options"
    return f"The option {name} is not right: {first['msg']}."
