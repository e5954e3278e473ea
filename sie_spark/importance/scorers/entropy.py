"""Uncertainty of the prediction, whatever the label."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from sie_spark.importance.contracts import Given, Scorer, Seen
from sie_spark.importance.registry import register_scorer
from sie_spark.models.store import PILOT


@register_scorer
class Entropy(Scorer):
    """``-p log p - (1 - p) log(1 - p)``, from the logit."""

    name = "entropy"
    version = 1
    citation = "Shannon 1948"
    uses = ("subsample", "weight")
    reads = "the pilot"
    cost = ".35"
    uses_label = False

    def score(self, seen: Seen, given: Given) -> Tensor:
        """Nats, [N], between 0 and log 2."""
        g, p = seen.logits[PILOT], seen.probability(PILOT)
        return p * functional.softplus(-g) + (1 - p) * functional.softplus(g)
