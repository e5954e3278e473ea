"""exp(score) as a weight, as the source articles use it: bounded, of mean 1, and biased."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

from sie_spark.platform.config.base import Settings
from sie_spark.weighting.registry import WeightPolicy, register_policy
from sie_spark.weighting.solve import rounded, solve_scale
from sie_spark.weighting.terms import Decision, Row

LARGEST = 50.0  # exponent; beyond it every weight is capped anyway


class Options(Settings):
    """Settings of this policy."""

    cap: float = Field(10.0, gt=1, description="greatest weight, in means")


@register_policy
class ExpScore(WeightPolicy):
    """Uniformly drawn rows with weight ``min(c exp(z), cap)``, z the standardised score, c such that the mean is 1.

    The score depends on the label, so the weighted fit converges to something else than the full data would give:
    emphasis, not estimation.
    """

    name = "exp_score"
    version = 1
    reads = ("score",)
    signed = True
    biased = True
    options = Options
    corrects_by = "none"

    def solve(self, pilot: Row, budget: float, options: Options) -> dict[str, float]:
        """Mean and standard deviation of the score, and the scale c."""
        mean, sd = rounded(float(np.mean(pilot.score))), rounded(float(np.std(pilot.score))) or 1.0
        raw = np.exp(np.minimum((pilot.score - mean) / sd, LARGEST))
        scale = solve_scale(lambda c: float(np.mean(np.minimum(c * raw, options.cap))), 1.0)
        return {"mean": mean, "sd": sd, "scale": scale, "cap": options.cap, "pi": budget}

    def decide(self, row: Row, constants: Mapping[str, float], ops: Any) -> Decision:
        """See the class."""
        z = ops.minimum((row.score - constants["mean"]) / constants["sd"], LARGEST)
        return Decision(
            pi=ops.constant(row.label, constants["pi"]),
            offset=ops.constant(row.label, 0.0),
            weight=ops.minimum(ops.exp(z) * constants["scale"], constants["cap"]),
        )
