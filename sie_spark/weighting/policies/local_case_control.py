"""Keep what surprises the pilot, whatever its label (Fithian & Hastie 2014); for data rich in positives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

from sie_spark.platform.config.base import Settings
from sie_spark.weighting.registry import WeightPolicy, register_policy
from sie_spark.weighting.solve import rounded, solve_scale
from sie_spark.weighting.terms import NUMPY, Decision, Row, bounded, surprise


class Options(Settings):
    """Settings of this policy."""

    floor: float = Field(
        0.01, gt=0, le=1, description="least inclusion probability, as a share of the mean one"
    )


@register_policy
class LocalCaseControl(WeightPolicy):
    """Acceptance ``a(x, y) = min(1, max(c |y - p(x)|, floor))``, offset ``log a(x, 1) / a(x, 0)``.

    Uncapped (c <= 1) the offset is ``-logit p``, and the fit is consistent with a consistent pilot, also for a
    misspecified model. Both labels' acceptances are capped before the ratio, so that the offset matches what was
    done; rows at a cap, of which the report gives the share, hold for a well-specified model only.
    """

    name = "local_case_control"
    version = 2
    assumption = "a consistent pilot; where a cap or a floor binds, a well-specified model too"
    citation = "Fithian & Hastie 2014"
    reads = ("p",)
    options = Options
    corrects_by = "offset"

    def solve(self, pilot: Row, budget: float, options: Options) -> dict[str, float]:
        """c for the budget."""
        if budget >= 1:
            return {"scale": 1.0, "floor": 1.0}
        floor, far = rounded(options.floor * budget), surprise(pilot, NUMPY)
        kept = lambda c: float(np.mean(bounded(c * far, floor, pilot, NUMPY)))  # noqa: E731
        return {"scale": solve_scale(kept, budget), "floor": floor}

    def decide(self, row: Row, constants: Mapping[str, float], ops: Any) -> Decision:
        """See the class."""

        def accept(far: Any) -> Any:
            return bounded(far * constants["scale"], constants["floor"], row, ops)

        positive, negative = accept(1.0 - row.p), accept(row.p)
        return Decision(
            pi=ops.where(row.label > 0, positive, negative),
            offset=ops.log(positive) - ops.log(negative),
            weight=ops.constant(row.label, 1.0),
        )
