"""A root of the score as a weight: flatter than its share, and biased."""

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

    temperature: float = Field(2.0, gt=0, description="1: the share itself; higher: flatter")


@register_policy
class Temperature(Emphasis):
    """Weight proportional to ``score ** (1 / temperature)``."""

    name = "temperature"
    version = 2
    citation = "tempered weights of the source articles"
    price = "not measured yet"
    options = Options

    def shape(self, score: np.ndarray, options: Any) -> dict[str, float]:
        """The exponent."""
        return {"exponent": rounded(1 / options.temperature)}

    def raw(self, score: Any, constants: Mapping[str, float], ops: Any) -> Any:
        """The root, 0 of 0."""
        return ops.exp(ops.log(ops.maximum(score, 1e-300)) * constants["exponent"])
