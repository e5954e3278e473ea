"""Log-loss of the label under the pilot: the baseline of every claim, never a weight by itself."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from sie_spark.importance.contracts import Given, Scorer, Seen
from sie_spark.importance.registry import register_scorer
from sie_spark.models.store import PILOT


@register_scorer
class Loss(Scorer):
    """``-y log p - (1 - y) log(1 - p)``, from the logit."""

    name = "loss"
    version = 1
    citation = "the likelihood itself"
    uses = ("audit",)
    reads = "the pilot"
    cost = ".35"
    uses_label = True

    def score(self, seen: Seen, given: Given) -> Tensor:
        """Nats, [N], at least 0."""
        return functional.binary_cross_entropy_with_logits(
            seen.logits[PILOT], seen.batch.label, reduction="none"
        )
