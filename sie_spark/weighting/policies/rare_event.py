"""Every positive, optimal negatives, log-odds offset: the default for clicks (Wang, Zhang & Wang, NeurIPS 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

from sie_spark.platform.config.base import Settings
from sie_spark.weighting.registry import WeightPolicy, register_policy
from sie_spark.weighting.solve import rounded, scale_for_budget
from sie_spark.weighting.terms import Decision, Row

LARGEST_SHARE = 0.5  # of the budget that positives may take


class Options(Settings):
    """Settings of this policy."""

    floor: float = Field(
        0.01, gt=0, le=1, description="least inclusion probability, as a share of the mean one"
    )


@register_policy
class RareEvent(WeightPolicy):
    """Keep all y = 1, and y = 0 with ``pi(x) = min(1, max(rho phi(x), floor))``.

    ``phi = t / E[t]`` with ``t = p ||d logit / d theta||``: the L-optimal measure, free of the label. The fit
    maximises the likelihood of the kept rows, ``y (g + l) - log(1 + e^(g + l))`` with ``l = -log pi(x)`` on
    *every* kept row, positives too; g is served. Exact for a well-specified model; under misspecification it
    converges to another projection than the full data would (Horvitz-Thompson does not).

    A row of p = .02 and norm 5 with E[t] = .2 has phi = .5; at rho = .1 a negative is kept with pi = .05 and
    carries l = 3.0, and so does a positive, which is kept for certain.
    """

    name = "rare_event"
    version = 1
    reads = (
        "p",
        "norm",
    )
    fallback = "local_case_control"
    biased = False
    options = Options
    corrects_by = "offset"

    def unfit(self, pilot: Row, budget: float) -> str:
        """Where the positives leave less than half of the budget to the negatives.

        A fit on few negatives, each with a large offset, is worse than a constant; at 44 % of the budget it was not.
        """
        positives = float(np.mean(pilot.label > 0))
        if not positives >= LARGEST_SHARE * budget or budget >= 1:
            return ""
        return (
            f"positives are {positives:.1%} of the rows, more than half of the budget of {budget:.1%}, and rare_event"
            " keeps all of them: capped local case-control is used instead"
        )

    def solve(self, pilot: Row, budget: float, options: Options) -> dict[str, float]:
        """rho for the budget that the positives leave to the negatives."""
        negative = ~(pilot.label > 0)
        t = pilot.p * pilot.norm
        share = float(np.mean(negative))
        target = (budget - (1 - share)) / share if share else 1.0
        mean = rounded(float(np.mean(t))) or 1.0
        if target >= 1 or not share:
            return {"mean": mean, "rho": 1.0, "floor": 1.0}
        floor = rounded(options.floor * target)
        rho = scale_for_budget(t[negative] / mean, target, floor)
        return {"mean": mean, "rho": rho, "floor": floor}

    def decide(self, row: Row, constants: Mapping[str, float], ops: Any) -> Decision:
        """See the class."""
        phi = row.p * row.norm / constants["mean"]
        pi = ops.minimum(ops.maximum(phi * constants["rho"], constants["floor"]), 1.0)
        return Decision(
            pi=ops.where(row.label > 0, ops.constant(row.label, 1.0), pi),
            offset=-ops.log(pi),
            weight=ops.constant(row.label, 1.0),
        )
