"""Influence in a low-rank space of each layer's gradients."""

from __future__ import annotations

from sie_spark.importance.projected import Projected
from sie_spark.importance.registry import register_scorer


@register_scorer
class LoGra(Projected):
    """``Projected`` with C the mean Fisher matrix of the projections."""

    name = "logra"
    citation = "LoGra, Choe et al. 2024"
    curvature = "fisher"
