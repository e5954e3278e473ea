"""score / sum(score) as a weight, as the source articles use it: rescaled to mean 1, capped, and biased."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

from sie_spark.platform.config.base import Settings
from sie_spark.weighting.registry import WeightPolicy, register_policy
from sie_spark.weighting.solve import rounded, solve_scale
from sie_spark.weighting.terms import Decision, Row


class Options(Settings):
    """Settings of this policy."""

    cap: float = Field(10.0, gt=1, description="greatest weight, in means")


@register_policy
class Share(WeightPolicy):
    """Uniformly drawn rows with weight ``min(c s / mean s, cap)``, c such that the mean is 1.

    A raw share averages 1/N and would stop the fit; the factor N and the cap make it a weight. Biased, for the
    reason given at :class:`~sie_spark.weighting.policies.exp_score.ExpScore`.
    """

    name = "share"
    version = 1
    reads = ("score",)
    biased = True
    options = Options
    corrects_by = "none"

    def solve(self, pilot: Row, budget: float, options: Options) -> dict[str, float]:
        """Mean of the score, the scale c, and the mean that is left where most scores are zero."""
        mean = rounded(float(np.mean(pilot.score))) or 1.0
        raw = pilot.score / mean
        scale = solve_scale(lambda c: float(np.mean(np.minimum(c * raw, options.cap))), 1.0)
        left = rounded(float(np.mean(np.minimum(scale * raw, options.cap)))) or 1.0
        return {"mean": mean, "scale": scale, "cap": options.cap, "left": left, "pi": budget}

    def decide(self, row: Row, constants: Mapping[str, float], ops: Any) -> Decision:
        """See the class."""
        weight = ops.minimum(row.score * (constants["scale"] / constants["mean"]), constants["cap"])
        return Decision(
            pi=ops.constant(row.label, constants["pi"]),
            offset=ops.constant(row.label, 0.0),
            weight=weight / constants["left"],
        )
