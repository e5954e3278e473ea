"""Keep what surprises the pilot, whatever its label (Fithian & Hastie 2014); for data rich in positives."""

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

    floor: float = Field(
        0.01, gt=0, le=1, description="least inclusion probability, as a share of the mean one"
    )


@register_policy
class LocalCaseControl(WeightPolicy):
    """Acceptance ``a(x, y) = min(1, max(c |y - p(x)|, floor))``, offset ``log a(x, 1) / a(x, 0)``.

    Both labels' acceptances are capped before the ratio, so that the offset matches what was done. Consistent
    with a consistent pilot, also for a misspecified model.
    """

    name = "local_case_control"
    version = 1
    reads = ("p",)
    biased = False
    options = Options
    corrects_by = "offset"

    def solve(self, pilot: Row, budget: float, options: Options) -> dict[str, float]:
        """c for the budget."""
        if budget >= 1:
            return {"scale": 1.0, "floor": 1.0}
        floor = rounded(options.floor * budget)
        surprise = np.abs(np.where(pilot.label > 0, 1.0, 0.0) - pilot.p)
        kept = lambda c: float(np.mean(np.clip(c * surprise, floor, 1.0)))  # noqa: E731
        return {"scale": solve_scale(kept, budget), "floor": floor}

    def decide(self, row: Row, constants: Mapping[str, float], ops: Any) -> Decision:
        """See the class."""

        def accept(surprise: Any) -> Any:
            return ops.minimum(ops.maximum(surprise * constants["scale"], constants["floor"]), 1.0)

        positive, negative = accept(1.0 - row.p), accept(row.p)
        return Decision(
            pi=ops.where(row.label > 0, positive, negative),
            offset=ops.log(positive) - ops.log(negative),
            weight=ops.constant(row.label, 1.0),
        )
