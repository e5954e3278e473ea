"""The rank of the score as a weight: immune to its tail, and biased."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sie_spark.weighting.emphasis import Emphasis
from sie_spark.weighting.registry import register_policy
from sie_spark.weighting.solve import rounded

STEPS = 20


@register_policy
class Rank(Emphasis):
    """Weight proportional to the share of rows with a lower score, in twentieths."""

    name = "rank"
    version = 2
    citation = "rank weights of the source articles"
    price = "not measured yet"
    signed = True

    def shape(self, score: np.ndarray, options: Any) -> dict[str, float]:
        """The quantiles at the twentieths."""
        at = np.quantile(score, np.arange(1, STEPS) / STEPS)
        return {f"quantile_{i}": rounded(float(value)) for i, value in enumerate(at, start=1)}

    def raw(self, score: Any, constants: Mapping[str, float], ops: Any) -> Any:
        """The middle of the twentieth that the score lies in."""
        step = ops.constant(score, 0.5 / STEPS)
        for i in range(1, STEPS):
            step = step + ops.where(score > constants[f"quantile_{i}"], 1.0 / STEPS, 0.0)
        return step
