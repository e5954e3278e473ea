"""score / sum(score) as a weight, as the source articles use it: rescaled to mean 1, capped, and biased."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sie_spark.platform.config import Weighting
from sie_spark.weighting.registry import register_policy
from sie_spark.weighting.solve import rounded, solve_scale
from sie_spark.weighting.terms import Decision, Row


@register_policy
class Share:
    """Uniformly drawn rows with weight ``min(c s / mean s, cap)``, c such that the mean is 1.

    A raw share averages 1/N and would stop the fit; the factor N and the cap make it a weight. Biased, for the
    reason given at :class:`~sie_spark.weighting.policies.exp_score.ExpScore`.
    """

    name = "share"
    version = 1
    uses_score = True
    biased = True
    corrects_by = "none"

    def solve(self, pilot: Row, settings: Weighting) -> dict[str, float]:
        """Mean of the score, the scale c, and the mean that is left where most scores are zero."""
        mean = rounded(float(np.mean(pilot.score))) or 1.0
        raw = pilot.score / mean
        scale = solve_scale(lambda c: float(np.mean(np.minimum(c * raw, settings.cap))), 1.0)
        left = rounded(float(np.mean(np.minimum(scale * raw, settings.cap)))) or 1.0
        return {"mean": mean, "scale": scale, "cap": settings.cap, "left": left, "pi": settings.budget}

    def decide(self, row: Row, constants: Mapping[str, float], ops: Any) -> Decision:
        """See the class."""
        weight = ops.minimum(row.score * (constants["scale"] / constants["mean"]), constants["cap"])
        return Decision(
            pi=ops.constant(row.p, constants["pi"]),
            offset=ops.constant(row.p, 0.0),
            weight=weight / constants["left"],
        )
