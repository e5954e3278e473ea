"""Equal shares of every range of the score, the hardest rows left out (CCS, Zheng et al. 2023): biased."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

from sie_spark.platform.config.base import Settings
from sie_spark.weighting.registry import WeightPolicy, register_policy
from sie_spark.weighting.solve import rounded, solve_scale
from sie_spark.weighting.terms import NUMPY, Decision, Row, importance


class Options(Settings):
    """Settings of this policy."""

    hardest: float = Field(
        0.01, ge=0, lt=1, description="share of the rows, those of highest score, that is left out"
    )
    strata: int = Field(
        10, ge=2, le=50, description="ranges of equal width that the other scores are cut into"
    )


@register_policy
class CoverageStratified(WeightPolicy):
    """As many rows of every stratum of the score; a stratum with fewer gives all of them, and the others more.

    It covers the data better than a threshold at high pruning rates; nothing corrects for it all the same.
    """

    name = "coverage_stratified"
    version = 1
    assumption = "none holds: the fit's target is not that of all rows"
    citation = "Zheng et al. 2023 (CCS)"
    price = "not measured yet"
    reads = ("p",)
    takes = "any"
    signed = True
    biased = True
    options = Options
    corrects_by = "none"

    def solve(self, pilot: Row, budget: float, options: Options) -> dict[str, float]:
        """The edges of the strata and the rate in each."""
        score = importance(pilot, NUMPY)
        high = (
            float(np.quantile(score, 1 - options.hardest))
            if 1 - options.hardest > budget
            else float(score.max())
        )
        edges = np.linspace(float(score.min()), high, options.strata + 1)
        place = np.asarray(np.searchsorted(edges, score, side="right") - 1).clip(0, options.strata - 1)
        shares = np.bincount(place[score <= high], minlength=options.strata) / len(score)
        level = solve_scale(lambda c: float(np.minimum(shares, c).sum()), min(budget, float(shares.sum())))
        rates = np.divide(np.minimum(shares, level), shares, out=np.zeros_like(shares), where=shares > 0)
        constants = {f"edge_{i}": rounded(float(edge)) for i, edge in enumerate(edges)}
        return constants | {f"rate_{i}": rounded(float(rate)) for i, rate in enumerate(rates)}

    def decide(self, row: Row, constants: Mapping[str, float], ops: Any) -> Decision:
        """See the class."""
        score, strata = importance(row, ops), sum(name.startswith("rate_") for name in constants)
        pi = ops.constant(row.label, constants["rate_0"])
        for i in range(1, strata):
            pi = ops.where(score >= constants[f"edge_{i}"], constants[f"rate_{i}"], pi)
        return Decision(
            pi=ops.where(score > constants[f"edge_{strata}"], 0.0, pi),
            offset=ops.constant(row.label, 0.0),
            weight=ops.constant(row.label, 1.0),
        )
