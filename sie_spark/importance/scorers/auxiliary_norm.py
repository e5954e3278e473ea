"""The gradient norm of the prediction, as a small network predicts it."""

from __future__ import annotations

from sie_spark.importance.distilled import Distilled
from sie_spark.importance.registry import register_scorer


@register_scorer
class AuxiliaryNorm(Distilled):
    """``||d logit / d theta||`` at the cost of a lookup and a few small layers."""

    name = "auxiliary_norm"
    citation = "distilled from the exact norm (Hinton et al. 2015)"
    target = "norm"
