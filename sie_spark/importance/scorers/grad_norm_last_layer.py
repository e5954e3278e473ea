"""Gradient norm of the loss over the last layer alone: most of GraNd's ranking for little more than a forward pass."""

from __future__ import annotations

from torch import Tensor

from sie_spark.gradients import LastLayer, Quantity
from sie_spark.importance.contracts import Given, Scorer, Seen
from sie_spark.importance.registry import register_scorer
from sie_spark.models.store import PILOT

LAST = LastLayer()


@register_scorer
class GradNormLastLayer(Scorer):
    """``|p - y| ||d logit / d theta_last||``, theta_last being the layer called last among those with a matrix."""

    name = "grad_norm_last_layer"
    citation = "Paul et al. 2021, of the last layer"
    uses = ("subsample", "audit")
    reads = "the pilot"
    cost = ".35"
    uses_label = True
    gradient = True

    def quantities(self, given: Given) -> dict[str, tuple[Quantity, ...]]:
        """The last layer's squared norm."""
        return {PILOT: (LAST,)}

    def score(self, seen: Seen, given: Given) -> Tensor:
        """At least 0, [N]."""
        return seen.slope(PILOT).abs() * seen.measured[PILOT][LAST.key].sqrt()
