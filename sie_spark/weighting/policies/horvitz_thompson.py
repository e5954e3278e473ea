"""Poisson sampling by a score, weight by the inverse (Horvitz & Thompson 1952): unbiased for any model and any score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

from sie_spark.platform.config.base import Settings
from sie_spark.weighting.registry import WeightPolicy, register_policy
from sie_spark.weighting.solve import rounded, scale_for_budget
from sie_spark.weighting.terms import NUMPY, Decision, Row, bounded, importance


class Options(Settings):
    """Settings of this policy."""

    floor: float = Field(
        0.01, gt=0, le=1, description="least inclusion probability, as a share of the mean one"
    )
    uniform_mix: float = Field(0.15, ge=0, le=1, description="share of uniform sampling mixed into pi")


@register_policy
class HorvitzThompson(WeightPolicy):
    """``pi = min(1, c m)`` with ``m = (1 - a) s / mean s + a``, c solved so that sum pi meets the budget; weight 1/pi.

    The score s is ``|y - p|`` unless the arm names one. The uniform share a (``uniform_mix``) and the floor bound
    the weights' tail.
    """

    name = "horvitz_thompson"
    version = 2
    assumption = "none: the expected weighted loss is the loss of all rows, for any model and any pilot"
    citation = "Horvitz & Thompson 1952; Wang, Zhu & Ma 2018"
    reads = ("p",)
    takes = "any"
    options = Options
    corrects_by = "weight"
    by_request = True

    def solve(self, pilot: Row, budget: float, options: Options) -> dict[str, float]:
        """c, and the mean of the score."""
        score = importance(pilot, NUMPY)
        mean, mix = rounded(float(np.mean(score))), options.uniform_mix
        if mean <= 0:
            mean, mix = 1.0, 1.0
        if budget >= 1:
            return {"mean": mean, "mix": mix, "scale": 1.0, "floor": 1.0}
        floor = rounded(options.floor * budget)
        measure = (1 - mix) * score / mean + mix
        return {
            "mean": mean,
            "mix": mix,
            "scale": scale_for_budget(measure, budget, floor, pilot),
            "floor": floor,
        }

    def decide(self, row: Row, constants: Mapping[str, float], ops: Any) -> Decision:
        """See the class."""
        measure = importance(row, ops) * ((1 - constants["mix"]) / constants["mean"]) + constants["mix"]
        pi = bounded(measure * constants["scale"], constants["floor"], row, ops)
        return Decision(pi=pi, offset=ops.constant(row.label, 0.0), weight=1.0 / pi)
