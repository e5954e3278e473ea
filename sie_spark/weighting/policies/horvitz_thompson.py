"""Sample by a score, weight by the inverse (Horvitz & Thompson 1952): unbiased for any model and any score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sie_spark.platform.config import Weighting
from sie_spark.weighting.registry import register_policy
from sie_spark.weighting.solve import rounded, scale_for_budget
from sie_spark.weighting.terms import Decision, Row


@register_policy
class HorvitzThompson:
    """``pi = min(1, c m)`` with ``m = (1 - a) s / mean s + a``, c solved so that sum pi meets the budget; weight 1/pi.

    The uniform share a (``weighting.uniform_mix``) and the floor bound the weights' tail.
    """

    name = "horvitz_thompson"
    version = 1
    uses_score = True
    biased = False
    corrects_by = "weight"

    def solve(self, pilot: Row, settings: Weighting) -> dict[str, float]:
        """c, and the mean of the score."""
        mean, mix = rounded(float(np.mean(pilot.score))), settings.uniform_mix
        if mean <= 0:
            mean, mix = 1.0, 1.0
        floor = rounded(settings.floor * settings.budget)
        measure = (1 - mix) * pilot.score / mean + mix
        if settings.budget >= 1:
            return {"mean": mean, "mix": mix, "scale": 1.0, "floor": 1.0}
        return {
            "mean": mean,
            "mix": mix,
            "scale": scale_for_budget(measure, settings.budget, floor),
            "floor": floor,
        }

    def decide(self, row: Row, constants: Mapping[str, float], ops: Any) -> Decision:
        """See the class."""
        measure = row.score * ((1 - constants["mix"]) / constants["mean"]) + constants["mix"]
        pi = ops.minimum(ops.maximum(measure * constants["scale"], constants["floor"]), 1.0)
        return Decision(pi=pi, offset=ops.constant(row.p, 0.0), weight=1.0 / pi)
