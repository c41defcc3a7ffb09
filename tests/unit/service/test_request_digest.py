"""The digest by which a repeated request is recognised."""

from __future__ import annotations

from engine.jobs.options import Quality, StemSeparationOptions
from engine.service.submission import Link, RequestDigest

LINK = Link("https://youtu.be/dQw4w9WgXcQ")


def digest(**options: object) -> str:
    return RequestDigest().of(LINK, StemSeparationOptions.from_user(**options))  # type: ignore[arg-type]


def test_digest_does_not_depend_on_the_default_model() -> None:
    best = Quality.BEST
    assert digest(quality=best) == digest(quality=best, ready=["best_of_both"])
    assert digest(quality=best, model="htdemucs_ft") != digest(quality=best)
    assert digest(quality=best, model="htdemucs_ft") != digest(quality=best, model="htdemucs")
    assert digest(quality=best) != digest(quality=Quality.FAST)
