"""Influence in a low-rank space of each layer's gradients."""

from __future__ import annotations

from sie_spark.importance.projected import Projected
from sie_spark.importance.registry import register_scorer


@register_scorer
class LoGra(Projected):
    """As ``trak``, with C the mean of ``p (1 - p) phi phi^T``: influence with a Fisher matrix of low rank."""

    name = "logra"
    citation = "LoGra, Choe et al. 2024"
    curvature = "fisher"
