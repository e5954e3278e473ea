"""exp(score) as a weight, as the source articles use it: bounded, of mean 1, and biased."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

from sie_spark.weighting.emphasis import Emphasis
from sie_spark.weighting.emphasis import Options as Common
from sie_spark.weighting.registry import register_policy
from sie_spark.weighting.solve import rounded

LARGEST = 50.0  # exponent; beyond it every weight is capped anyway


class Options(Common):
    """Settings of this policy."""

    temperature: float = Field(1.0, gt=0, description="that the standardised score is divided by")


@register_policy
class ExpScore(Emphasis):
    """Weight ``exp(z / temperature)``, z the standardised score; a high temperature comes near equal weights."""

    name = "exp_score"
    version = 2
    citation = "softmax weights of the source articles"
    price = "with the loss as score at 10 % kept: AUC -.036, calibration 4.8 (simulated shop)"
    signed = True
    options = Options

    def shape(self, score: np.ndarray, options: Any) -> dict[str, float]:
        """Mean and standard deviation of the score."""
        sd = rounded(float(np.std(score))) or 1.0
        return {"mean": rounded(float(np.mean(score))), "sd": rounded(sd * options.temperature)}

    def raw(self, score: Any, constants: Mapping[str, float], ops: Any) -> Any:
        """``exp((s - mean) / sd)``, the exponent bounded."""
        return ops.exp(ops.minimum((score - constants["mean"]) / constants["sd"], LARGEST))
