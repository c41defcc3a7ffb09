"""Words for quality scores, best first."""

from __future__ import annotations

from typing import Literal

Word = Literal["clean", "good", "fair", "rough"]
LOWEST_SCORES: dict[Word, float] = {"clean": 0.85, "good": 0.75, "fair": 0.5, "rough": 0.0}
"""The lowest score of each word. Results that are at least good are fit for production use."""


def word_of(score: float) -> Word:
    """Return the word for a score from 0 to 1."""
    return next((word for word, lowest in LOWEST_SCORES.items() if score >= lowest), "rough")
