"""Options: names, defaults and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from engine.errors import BadOptions, UnknownModel
from engine.jobs.models import MODELS
from engine.jobs.options import Quality, StemSeparationOptions


@pytest.mark.parametrize(
    "values",
    [
        {"quality": "perfect"},
        {"output_format": "ogg"},
        {"output_format": "exe"},
        {"segment_duration": 0},
        {"segment_duration": -1.0},
        {"segment_duration": float("nan")},
        {"segment_duration": float("inf")},
        {"segment_duration": 601},
        {"overlap_duration": -0.1},
        {"overlap_duration": float("nan")},
        {"segment_duration": 5, "overlap_duration": 5},
        {"normalize": "perhaps"},
        {"remove_vocals": 7},
        {"volume": 11},
    ],
)
def test_unknown_option_values_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(BadOptions) as refused:
        StemSeparationOptions.from_user(**values)
    assert refused.value.message.endswith(".")
    with pytest.raises(ValidationError):
        StemSeparationOptions.model_validate(values)


@pytest.mark.parametrize("name", ["", "spleeter", "HTDEMUCS", "htdemucs ", "x" * 5000, 7])
def test_unknown_model_is_refused_with_known_names(name: object) -> None:
    with pytest.raises(UnknownModel) as refused:
        StemSeparationOptions.from_user(model=name)
    assert all(known in refused.value.message for known in MODELS)
    assert len(refused.value.message) < 400


def test_all_models_of_data_model_are_accepted() -> None:
    assert {"htdemucs", "htdemucs_ft", "mdx_extra", "mdx_extra_q"} <= set(MODELS)
    for name in MODELS:
        assert StemSeparationOptions.from_user(model=name).model == name


def test_best_quality_selects_fine_tuned_model() -> None:
    assert StemSeparationOptions.from_user(quality="best").model == "htdemucs_ft"
    assert StemSeparationOptions.from_user(quality="best", model="mdx_extra").model == "mdx_extra"
    assert StemSeparationOptions.from_user(quality=Quality.FAST).model == "htdemucs"


def test_none_selects_default() -> None:
    assert StemSeparationOptions.from_user(model=None, segment_duration=None) == StemSeparationOptions()
