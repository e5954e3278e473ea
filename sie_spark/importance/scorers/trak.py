"""Attribution by a linear model of sketched gradients."""

from __future__ import annotations

from sie_spark.importance.registry import register_scorer
from sie_spark.importance.sketched import Sketched


@register_scorer
class Trak(Sketched):
    """``(p - y) <phi, (C + damping)^-1 t>``: phi a sketch of ``d logit / d theta``, C the mean of ``p (1 - p) phi phi^T``.

    t is the mean of ``(p - y) phi`` over validation rows. The logit is taken as linear in the parameters. Park et al.
    leave p (1 - p) out of C and average several models; with it one model says more of retraining.
    """

    name = "trak"
    citation = "TRAK, Park et al. 2023, with one model and a tensor sketch (Pham & Pagh 2013)"
    curvature = "gauss_newton"
    damped = 2.0
