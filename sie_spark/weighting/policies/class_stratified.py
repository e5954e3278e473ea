"""Both classes thinned, each at one rate, so that they share the budget; log-odds offset (King & Zeng 2001)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

from sie_spark.platform.config.base import Settings
from sie_spark.weighting.registry import WeightPolicy, register_policy
from sie_spark.weighting.solve import rounded
from sie_spark.weighting.terms import Decision, Row


class Options(Settings):
    """Settings of this policy."""

    positives: float = Field(0.5, gt=0, lt=1, description="share of the budget that goes to positives")


@register_policy
class ClassStratified(WeightPolicy):
    """``pi = pi_1`` for y = 1 and ``pi_0`` for y = 0; offset ``log pi_1 / pi_0``.

    Half of the budget goes to each class; what a class has no rows for goes to the other. No model is asked, so that
    the rows suit any learner: with weights 1/pi they are a stratified sample, which loses nothing to a random one.
    """

    name = "class_stratified"
    version = 1
    assumption = "a well-specified model, apart from its intercept"
    citation = "King & Zeng 2001"
    reads = ()
    options = Options
    corrects_by = "offset"

    def solve(self, pilot: Row, budget: float, options: Options) -> dict[str, float]:
        """The rates of the classes."""
        share = float(np.mean(pilot.label > 0))
        if budget >= 1 or share in (0.0, 1.0):
            return {"positive": min(1.0, budget), "negative": min(1.0, budget)}
        positive = min(1.0, options.positives * budget / share)
        negative = (budget - positive * share) / (1 - share)
        if negative > 1:
            positive, negative = (budget - (1 - share)) / share, 1.0
        return {"positive": rounded(positive), "negative": rounded(negative)}

    def decide(self, row: Row, constants: Mapping[str, float], ops: Any) -> Decision:
        """See the class."""
        positive = ops.constant(row.label, constants["positive"])
        negative = ops.constant(row.label, constants["negative"])
        return Decision(
            pi=ops.where(row.label > 0, positive, negative),
            offset=ops.log(positive) - ops.log(negative),
            weight=ops.constant(row.label, 1.0),
        )
