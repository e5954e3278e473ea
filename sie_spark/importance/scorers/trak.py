"""Attribution by a linear model of random gradient projections."""

from __future__ import annotations

from sie_spark.importance.projected import Projected
from sie_spark.importance.registry import register_scorer


@register_scorer
class Trak(Projected):
    """``Projected`` with C the mean of ``phi phi^T``: the logit as a linear function of projected parameters."""

    name = "trak"
    citation = "TRAK, Park et al. 2023, with one model"
    curvature = "kernel"
