"""Tell which stem a sound is, with identity.json: a softmax regression on the shape of the stem.

`python -m training.identity` fits it to rendered songs. It compares the stems of one song with each other, so that it
also works for sounds and models that the fit has not seen.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np

Shapes = Mapping[str, Mapping[str, float]]
IDENTITY = Path(__file__).with_name("identity.json")
REACH = 3.0
"""Standardised features are clipped at this, to limit extrapolation."""


@cache
def coefficients() -> dict[str, Any]:
    """Return the content of identity.json."""
    content: dict[str, Any] = json.loads(IDENTITY.read_text())
    return content


def log_probabilities(shape: Mapping[str, float]) -> dict[str, float]:
    """Return the logarithm of the probability that a sound of this shape is each stem."""
    content = coefficients()
    x = np.array([shape[name] for name in content["features"]])
    z = np.clip((x - content["mean"]) / content["scale"], -REACH, REACH)
    scores = z @ np.array(content["weights"]) + content["intercepts"]
    scores -= np.logaddexp.reduce(scores)
    return dict(zip(content["stems"], scores.tolist(), strict=True))


def best_order(shapes: Shapes) -> tuple[tuple[str, ...], float]:
    """Return what the stems most likely are, in the order of `shapes`, if not all are what their names say.

    The second value is the logarithm of how much likelier this order is than the names. It is -inf for one stem.
    """
    names = tuple(shapes)
    found = {name: log_probabilities(shape) for name, shape in shapes.items()}
    named = sum(found[name][name] for name in names)
    orders = [order for order in permutations(names) if order != names]
    if not orders:
        return names, -math.inf
    likelihoods = [sum(found[name][other] for name, other in zip(names, order, strict=True)) for order in orders]
    best = int(np.argmax(likelihoods))
    return orders[best], likelihoods[best] - named
