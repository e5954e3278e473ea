"""Every positive and negatives at one rate, log-odds offset: what most click teams do (He et al. 2014)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sie_spark.platform.config.base import Settings
from sie_spark.weighting.policies.rare_event import LARGEST_SHARE
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
        positives = float(np.mean(pilot.label > 0))
        if not positives >= LARGEST_SHARE * budget or budget >= 1:
            return ""
        return (
            f"positives are {positives:.1%} of the rows, more than half of the budget of {budget:.1%}, and"
            " uniform_negatives keeps all of them: class_stratified is used instead"
        )

    def solve(self, pilot: Row, budget: float, options: Settings) -> dict[str, float]:
        """The rate of negatives."""
        negative = ~(pilot.label > 0)
        share = float(np.mean(negative))
        target = (budget - (1 - share)) / share if share else 1.0
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
