"""Attribution by a linear model of random gradient projections."""

from __future__ import annotations

from sie_spark.importance.projected import Projected
from sie_spark.importance.registry import register_scorer


@register_scorer
class Trak(Projected):
    """``(p - y) <phi, (C + damping)^-1 t>``: phi a projection of ``d logit / d theta``, C the mean of ``phi phi^T``.

    t is the mean of ``(p - y) phi`` over validation rows. The logit is taken as linear in projected parameters.
    """

    name = "trak"
    citation = "TRAK, Park et al. 2023, with one model"
    curvature = "kernel"
