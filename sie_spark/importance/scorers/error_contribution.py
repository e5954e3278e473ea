"""How much the loss changes with the prediction: the error contribution of the source articles, for log-loss."""

from __future__ import annotations

from torch import Tensor

from sie_spark.importance.contracts import Given, Scorer, Seen
from sie_spark.importance.registry import register_scorer
from sie_spark.models.store import PILOT

MOST = 1e12


@register_scorer
class ErrorContribution(Scorer):
    """``|d BCE / d p| = 1 / P(label)``, at most 1e12.

    Of the squared error it would be ``2 |p - y|``, which is score ``error`` but for the factor.
    """

    name = "error_contribution"
    citation = "derivative of the loss in the prediction"
    uses = ("audit",)
    reads = "the pilot"
    cost = ".35"
    uses_label = True

    def score(self, seen: Seen, given: Given) -> Tensor:
        """At least 1, [N]."""
        g, y = seen.logits[PILOT].double(), seen.batch.label.double()
        return (1 + ((1 - 2 * y) * g).exp()).clamp(max=MOST)
