"""Texts and choices of failed jobs."""

from __future__ import annotations

import pytest

from bot.cards.failures import failure_text, may_try_fallback
from engine.jobs.comparison import Comparison
from engine.jobs.options import StemSeparationOptions
from tests.fixtures.jobs import pending_job


@pytest.mark.parametrize(("is_comparison", "named", "offered"), [(False, True, True), (True, False, False)])
def test_missing_model_of_a_comparison_has_no_fallback(is_comparison: bool, named: bool, offered: bool) -> None:
    comparison = Comparison(models=("htdemucs", "mini")) if is_comparison else None
    options = StemSeparationOptions(model="htdemucs", comparison=comparison)
    job = pending_job().model_copy(update={"options": options, "error_code": "model_unavailable", "error": "x"})
    assert ("htdemucs" in failure_text(job)) is named
    assert may_try_fallback(job) is offered
