"""The score as a weight, clipped at two of its quantiles, and biased."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

from sie_spark.weighting.emphasis import Emphasis
from sie_spark.weighting.emphasis import Options as Common
from sie_spark.weighting.registry import register_policy
from sie_spark.weighting.solve import rounded


class Options(Common):
    """Settings of this policy."""

    low: float = Field(
        0.05, ge=0, lt=1, description="quantile of the score below which the weight falls no more"
    )
    high: float = Field(
        0.95, gt=0, le=1, description="quantile of the score above which the weight grows no more"
    )


@register_policy
class Clip(Emphasis):
    """Weight proportional to the score between its ``low`` and ``high`` quantile."""

    name = "clip"
    version = 2
    citation = "clipped weights of the source articles"
    price = "not measured yet"
    options = Options

    def shape(self, score: np.ndarray, options: Any) -> dict[str, float]:
        """The two quantiles."""
        low, high = np.quantile(score, [options.low, max(options.low, options.high)])
        return {"low": rounded(float(low)), "high": rounded(float(high))}

    def raw(self, score: Any, constants: Mapping[str, float], ops: Any) -> Any:
        """The clipped score."""
        return ops.minimum(ops.maximum(score, constants["low"]), constants["high"])
