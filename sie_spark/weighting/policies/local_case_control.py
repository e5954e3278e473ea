"""Keep what surprises the pilot, whatever its label (Fithian & Hastie 2014); for data rich in positives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sie_spark.platform.config import Weighting
from sie_spark.weighting.registry import register_policy
from sie_spark.weighting.solve import rounded, solve_scale
from sie_spark.weighting.terms import Decision, Row


@register_policy
class LocalCaseControl:
    """Acceptance ``a(x, y) = min(1, max(c |y - p(x)|, floor))``, offset ``log a(x, 1) / a(x, 0)``.

    Both labels' acceptances are capped before the ratio, so that the offset matches what was done. Consistent
    with a consistent pilot, also for a misspecified model.
    """

    name = "local_case_control"
    version = 1
    uses_score = False
    biased = False
    corrects_by = "offset"

    def solve(self, pilot: Row, settings: Weighting) -> dict[str, float]:
        """c for the budget."""
        if settings.budget >= 1:
            return {"scale": 1.0, "floor": 1.0}
        floor = rounded(settings.floor * settings.budget)
        surprise = np.abs(np.where(pilot.label > 0, 1.0, 0.0) - pilot.p)
        kept = lambda c: float(np.mean(np.clip(c * surprise, floor, 1.0)))  # noqa: E731
        return {"scale": solve_scale(kept, settings.budget), "floor": floor}

    def decide(self, row: Row, constants: Mapping[str, float], ops: Any) -> Decision:
        """See the class."""

        def accept(surprise: Any) -> Any:
            return ops.minimum(ops.maximum(surprise * constants["scale"], constants["floor"]), 1.0)

        positive, negative = accept(1.0 - row.p), accept(row.p)
        return Decision(
            pi=ops.where(row.label > 0, positive, negative),
            offset=ops.log(positive) - ops.log(negative),
            weight=ops.constant(row.p, 1.0),
        )
