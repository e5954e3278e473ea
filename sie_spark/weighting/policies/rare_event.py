"""Every positive, chosen negatives, log-odds offset: the default for clicks (Wang, Zhang & Wang, NeurIPS 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

from sie_spark.platform.config.base import Settings
from sie_spark.weighting.all_positives import crowded_out, negatives_kept
from sie_spark.weighting.registry import WeightPolicy, register_policy
from sie_spark.weighting.solve import rounded, scale_for_budget
from sie_spark.weighting.terms import NUMPY, Decision, Row, bounded


class Options(Settings):
    """Settings of this policy."""

    floor: float = Field(
        0.01, gt=0, le=1, description="least inclusion probability, as a share of the mean one"
    )
    power: float | None = Field(
        None,
        ge=0,
        le=1,
        description="of p in the measure; null: 0.5 where the arm names no score, 1 where it does",
    )


@register_policy
class RareEvent(WeightPolicy):
    """Keep all y = 1, and y = 0 with ``pi(x) = min(1, max(rho phi(x), floor))``.

    ``phi = t / E[t]`` with ``t = p ** power * s``. Without a score t is ``sqrt(p)``, from the forward pass alone;
    ``power: 1`` makes it p. With ``weighting.score: logit_grad_norm`` t is ``p ||d logit / d theta||``, the
    L-optimal measure, and with ``a_optimal_norm`` the A-optimal one, of the last layer. t does not depend on the
    label. The fit maximises the likelihood of the kept rows, ``y (g + l) - log(1 + e^(g + l))`` with
    ``l = -log pi(x)`` on *every* kept row, positives too; g is served.

    A row of p = .04 has t = .2; with E[t] = .1 and rho = .05 a negative is kept with pi = .1 and carries l = 2.3, and
    so does a positive, which is kept for certain.
    """

    name = "rare_event"
    version = 2
    assumption = (
        "a well-specified model; under misspecification another projection than that of all rows is found"
    )
    citation = "Wang, Zhang & Wang 2021"
    reads = ("p",)
    takes = "label-free"
    fallback = "local_case_control"
    options = Options
    corrects_by = "offset"

    def unfit(self, pilot: Row, budget: float) -> str:
        """Where the positives leave less than half of the budget to the negatives."""
        return crowded_out(pilot, budget, self.name, "capped local case-control")

    def solve(self, pilot: Row, budget: float, options: Options) -> dict[str, float]:
        """rho for the budget that the positives leave to the negatives."""
        power = options.power if options.power is not None else 0.5 if pilot.score is None else 1.0
        negative = ~(pilot.label > 0)
        t = _measure(pilot, power, NUMPY)
        target = negatives_kept(pilot, budget)
        mean = rounded(float(np.mean(t))) or 1.0
        if target >= 1:
            return {"power": power, "mean": mean, "rho": 1.0, "floor": 1.0}
        floor = rounded(options.floor * target)
        rho = scale_for_budget(t[negative] / mean, target, floor, pilot.where(negative))
        return {"power": power, "mean": mean, "rho": rho, "floor": floor}

    def decide(self, row: Row, constants: Mapping[str, float], ops: Any) -> Decision:
        """See the class."""
        phi = _measure(row, constants["power"], ops) / constants["mean"]
        pi = bounded(phi * constants["rho"], constants["floor"], row, ops)
        return Decision(
            pi=ops.where(row.label > 0, ops.constant(row.label, 1.0), pi),
            offset=-ops.log(pi),
            weight=ops.constant(row.label, 1.0),
        )


def _measure(row: Row, power: float, ops: Any) -> Any:
    """``p ** power * s``."""
    t = ops.exp(ops.log(ops.maximum(row.p, 1e-12)) * power)
    return t if row.score is None else t * row.score
