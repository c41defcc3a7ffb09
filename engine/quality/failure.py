"""Notice a separation that failed, such as one by untrained weights: its stems get low scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from engine.jobs.trust import SEPARATION_FAILED
from engine.quality.identity import Shapes, best_order

Features = Mapping[str, Mapping[str, float]]
_FAILED = 0.5  # a factor below this is explained


@dataclass(frozen=True)
class Failure:
    """A factor for all scores, 1 without a failure, and sentences that explain a low one."""

    factor: float
    notes: tuple[str, ...]


def find_failure(features: Features, shapes: Shapes) -> Failure:
    """Compare the audible stems with the mix, with each other, and with what they are called."""
    found = [_sum(features), _foreign(features), _alike(shapes), _order(shapes)]
    factor = 1.0
    for each, _ in found:
        factor *= each
    return Failure(factor, tuple(note for each, note in found if each < _FAILED))


def _sum(features: Features) -> tuple[float, str]:
    levels_db = [stem["level"] - stem["residual"] for stem in features.values() if "residual" in stem]
    factor = min((_between(level_db, best=-6, worst=-2) for level_db in levels_db), default=1.0)
    return factor, f"{SEPARATION_FAILED}: the stems do not add up to the song."


def _foreign(features: Features) -> tuple[float, str]:
    added = [stem["added"] for stem in features.values() if "added" in stem]
    factor = _between(sum(added) / len(added), best=-0.3, worst=-0.6) if added else 1.0
    return factor, f"{SEPARATION_FAILED}: the stems contain sound that is not in the song."


def _alike(shapes: Shapes) -> tuple[float, str]:
    likeness = [stem["likeness"] for stem in shapes.values() if "likeness" in stem]
    factor = _between(sum(likeness) / len(likeness), best=0.75, worst=0.9) if likeness else 1.0
    return factor, f"{SEPARATION_FAILED}: the stems are almost alike."


def _order(shapes: Shapes) -> tuple[float, str]:
    order, advantage = best_order(shapes)
    factor = _between(advantage, best=1.5, worst=3.5)
    moved = [name for name, other in zip(shapes, order, strict=True) if name != other]
    return factor, f"Stems seem to be mixed up: {', '.join(moved)}."


def _between(value: float, *, best: float, worst: float) -> float:
    return min(1.0, max(0.0, (value - worst) / (best - worst)))
