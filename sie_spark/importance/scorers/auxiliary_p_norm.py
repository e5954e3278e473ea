"""The probability times the gradient norm of the prediction, as a small network predicts it."""

from __future__ import annotations

from sie_spark.importance.distilled import Distilled
from sie_spark.importance.registry import register_scorer


@register_scorer
class AuxiliaryPNorm(Distilled):
    """``p ||d logit / d theta||``, what L-optimal sampling draws negatives by."""

    name = "auxiliary_p_norm"
    citation = "distilled from Wang, Zhang & Wang 2021 (Hinton et al. 2015)"
    target = "p_norm"
