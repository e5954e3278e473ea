"""Influence in a low-dimensional space of the gradients, with their own second moments as curvature."""

from __future__ import annotations

from sie_spark.importance.registry import register_scorer
from sie_spark.importance.sketched import Sketched


@register_scorer
class LoGra(Sketched):
    """As ``trak``, with C the mean of ``(p - y)^2 phi phi^T``: the empirical Fisher matrix."""

    name = "logra"
    citation = "LoGra, Choe et al. 2024, with a tensor sketch"
    curvature = "empirical"
    damped = 4.0
