"""What a comparison of models separates: an excerpt of a song, once with each model."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator

from engine.errors import BadOptions
from engine.jobs.entity import Entity
from engine.jobs.models import MODELS, ModelName, stems_of, unknown_model

EXCERPT_S = 30.0
LABELS = ("A", "B", "C", "D")
"""Of the models of a comparison, while a listener must not see their names."""
_RESTS = ("other", "instrumental")  # the remainder of a song differs between models

_RULES = {
    "models": f"Send models: the names of 2 to {len(LABELS)} models.",
    "startS": "The time startS must be a number of seconds, 0 or more.",
}


class Comparison(Entity):
    """Compare models on an excerpt of half a minute."""

    models: tuple[ModelName, ...] = Field(min_length=2, max_length=len(LABELS))
    start_s: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False, strict=True)] | None = None
    """Seconds; None: where the song is loudest."""

    @model_validator(mode="after")
    def _models_differ(self) -> Self:
        if len(set(self.models)) < len(self.models):
            raise ValueError("name each model once")
        return self

    @classmethod
    def from_user(cls, values: dict[str, Any]) -> Self:
        """Return the comparison from JSON. Raises `BadOptions`, `UnknownModel`."""
        try:
            comparison = cls.model_validate(values)
        except ValidationError as error:
            raise BadOptions(_message(error)) from None
        for name in comparison.models:
            if name not in MODELS:
                raise unknown_model(name)
        if not compared_stems(comparison.models, karaoke=False):
            raise BadOptions("These models have no stem in common. Choose other models.")
        return comparison


def labelled(models: Sequence[str], seed: int) -> dict[str, str]:
    """Return the models by label, in an order that depends on the seed only."""
    return dict(zip(LABELS, Random(seed).sample(models, len(models)), strict=False))  # noqa: S311


def compared_stems(models: Sequence[str], *, karaoke: bool) -> tuple[str, ...]:
    """Return the stems that are compared: those of the models if they are the same, else what they have in common."""
    stems = [stems_of(model) for model in models]
    if not karaoke and all({*each} == {*stems[0]} for each in stems):
        return stems[0]
    if all("vocals" in each for each in stems):
        return ("vocals", "instrumental")
    return tuple(stem for stem in stems[0] if stem not in _RESTS and all(stem in each for each in stems))


def _message(error: ValidationError) -> str:
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    if first["type"] == "extra_forbidden":
        return f"Unknown field {name!r:.40}. The fields are: {', '.join(_RULES)}."
    return _RULES.get(name, "Name each model once.")
