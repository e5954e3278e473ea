"""How far on the wrong side of the decision boundary a row lies."""

from __future__ import annotations

from torch import Tensor

from sie_spark.importance.contracts import Given, Scorer, Seen
from sie_spark.importance.registry import register_scorer
from sie_spark.models.store import PILOT


@register_scorer
class Margin(Scorer):
    """``(1 - 2 y) logit``: the margin negated, so that a row the model gets wrong stands high."""

    name = "margin"
    version = 2
    citation = "Vapnik 1995"
    uses = ("audit",)
    reads = "the pilot"
    cost = ".35"
    uses_label = True
    signed = True

    def score(self, seen: Seen, given: Given) -> Tensor:
        """Logits, [N]; negative when the right side is predicted."""
        return (1 - 2 * seen.batch.label) * seen.logits[PILOT]
