"""Selection by a threshold on the score, without any correction: biased."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from sie_spark.platform.config.base import Settings
from sie_spark.weighting.registry import WeightPolicy
from sie_spark.weighting.solve import rounded
from sie_spark.weighting.terms import NUMPY, Decision, Row, importance


class Pruning(WeightPolicy):
    """Keep the rows on one side of a threshold; of those at the threshold, as many as the budget leaves room for.

    Attributes
    ----------
    keeps:
        1: the highest scores; -1: the lowest.
    """

    keeps: ClassVar[int]
    assumption = "none holds: the fit's target is not that of all rows"
    reads = ("p",)
    takes = "any"
    signed = True
    biased = True
    corrects_by = "none"

    def solve(self, pilot: Row, budget: float, options: Settings) -> dict[str, float]:
        """The threshold, and the share that is kept of rows at it."""
        score = self.keeps * importance(pilot, NUMPY)
        threshold = float(
            np.quantile(score, 1 - min(budget, 1.0), method="lower")
        )  # a score itself, to the last digit
        beyond, at = float(np.mean(score > threshold)), float(np.mean(score == threshold))
        return {"threshold": threshold, "at": rounded(min(1.0, max(0.0, budget - beyond) / at))}

    def decide(self, row: Row, constants: Mapping[str, float], ops: Any) -> Decision:
        """See the class."""
        score, threshold = self.keeps * importance(row, ops), constants["threshold"]
        at = ops.where(score == threshold, constants["at"], 0.0)
        return Decision(
            pi=ops.where(score > threshold, 1.0, at),
            offset=ops.constant(row.label, 0.0),
            weight=ops.constant(row.label, 1.0),
        )
