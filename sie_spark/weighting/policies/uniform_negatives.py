"""Every positive and negatives at one rate, log-odds offset: what most click teams do (He et al. 2014)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sie_spark.platform.config.base import Settings
from sie_spark.weighting.all_positives import crowded_out, negatives_kept
from sie_spark.weighting.registry import WeightPolicy, register_policy
from sie_spark.weighting.solve import scale_for_budget
from sie_spark.weighting.terms import Decision, Row, bounded


@register_policy
class UniformNegatives(WeightPolicy):
    """Keep all y = 1, and y = 0 with one probability w; offset ``-log w``, the re-calibration of He et al. in the fit.

    With a floor for rare ids w is larger for their rows.
    """

    name = "uniform_negatives"
    version = 1
    assumption = "a well-specified model, apart from its intercept"
    citation = "He et al. 2014; King & Zeng 2001"
    reads = ()
    fallback = "class_stratified"
    corrects_by = "offset"

    def unfit(self, pilot: Row, budget: float) -> str:
        """Where the positives leave less than half of the budget to the negatives."""
        return crowded_out(pilot, budget, self.name, "class_stratified")

    def solve(self, pilot: Row, budget: float, options: Settings) -> dict[str, float]:
        """The rate of negatives."""
        negative = ~(pilot.label > 0)
        target = negatives_kept(pilot, budget)
        if target >= 1:
            return {"rate": 1.0}
        return {"rate": scale_for_budget(np.ones(int(negative.sum())), target, 0.0, pilot.where(negative))}

    def decide(self, row: Row, constants: Mapping[str, float], ops: Any) -> Decision:
        """See the class."""
        pi = bounded(ops.constant(row.label, constants["rate"]), 0.0, row, ops)
        return Decision(
            pi=ops.where(row.label > 0, ops.constant(row.label, 1.0), pi),
            offset=-ops.log(pi),
            weight=ops.constant(row.label, 1.0),
        )
