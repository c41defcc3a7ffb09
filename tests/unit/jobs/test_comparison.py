"""Comparisons of models: what is refused, which stems are compared, which labels the models get."""

from __future__ import annotations

from typing import Any

import pytest

from engine.errors import BadOptions, UnknownModel
from engine.jobs.comparison import Comparison, compared_stems, labelled
from engine.jobs.estimates import is_default_plan, parts_of
from engine.jobs.options import StemSeparationOptions

FOUR = ("vocals", "drums", "bass", "other")
TWO = ("vocals", "instrumental")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "2 to 4 models"),
        ({"models": []}, "2 to 4 models"),
        ({"models": ["mini"]}, "2 to 4 models"),
        ({"models": "mini"}, "2 to 4 models"),
        ({"models": ["mini", "htdemucs", "mdx_extra", "htdemucs_6s", "hdemucs_mmi"]}, "2 to 4 models"),
        ({"models": ["mini", 7]}, "2 to 4 models"),
        ({"models": ["mini", "mini"]}, "each model once"),
        ({"models": ["mini", "htdemucs"], "startS": -1}, "startS"),
        ({"models": ["mini", "htdemucs"], "startS": "1:00"}, "startS"),
        ({"models": ["mini", "htdemucs"], "startS": float("nan")}, "startS"),
        ({"models": ["mini", "htdemucs"], "quality": "best"}, "Unknown field 'quality'.*models, startS"),
    ],
)
def test_wrong_requests_are_refused_with_the_rule(values: dict[str, Any], message: str) -> None:
    with pytest.raises(BadOptions, match=message):
        Comparison.from_user(values)


def test_unknown_model_is_refused_with_known_names() -> None:
    with pytest.raises(UnknownModel, match="Did you mean htdemucs"):
        Comparison.from_user({"models": ["mini", "htdemuks"]})


@pytest.mark.parametrize(
    ("models", "karaoke", "stems"),
    [
        (("htdemucs", "mini"), False, FOUR),
        (("htdemucs", "mini"), True, TWO),
        (("htdemucs", "melband_vocals"), False, TWO),
        (("melband_vocals", "htdemucs_6s"), False, TWO),
        (("best_of_both", "htdemucs"), False, FOUR),
    ],
)
def test_models_are_compared_by_the_stems_of_all(
    models: tuple[str, ...], karaoke: bool, stems: tuple[str, ...]
) -> None:
    assert compared_stems(models, karaoke=karaoke) == stems


def test_labels_do_not_follow_the_order_of_the_models() -> None:
    models = ("mini", "htdemucs", "mdx_extra")
    found = [labelled(models, seed) for seed in range(60)]
    assert all([*each] == ["A", "B", "C"] and {*each.values()} == {*models} for each in found)
    assert len({tuple(each.values()) for each in found}) == 6
    assert labelled(models, 7) == labelled(models, 7)


def test_comparison_is_an_option_that_others_do_not_show() -> None:
    plain = StemSeparationOptions()
    assert "comparison" not in plain.model_dump_json(), "equal options of older jobs are still equal as text"
    comparison = Comparison.from_user({"models": ["mini", "htdemucs"], "startS": 3.5})
    options = StemSeparationOptions.from_user(model="mdx_extra", comparison=comparison)
    assert StemSeparationOptions.model_validate_json(options.model_dump_json()) == options
    assert options.models == ("mini", "htdemucs") and plain.models == ("htdemucs",)
    assert parts_of(options, 200) == [("mini", 30), ("htdemucs", 30)] and parts_of(options, 20)[0] == ("mini", 20)
    assert not is_default_plan(options), "its cost is not that of a model"
