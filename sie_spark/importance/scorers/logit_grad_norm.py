"""Exact gradient norm of the prediction over all parameters: what sampling by a label-free score reads."""

from __future__ import annotations

from torch import Tensor

from sie_spark.gradients import Norms, Quantity
from sie_spark.importance.contracts import Given, Scorer, Seen
from sie_spark.importance.registry import register_scorer
from sie_spark.models.store import PILOT

NORMS = Norms()


@register_scorer
class LogitGradNorm(Scorer):
    """``||d logit / d theta||``, embeddings included."""

    name = "logit_grad_norm"
    version = 1
    citation = "Wang, Zhang & Wang 2021; computed as Goodfellow 2015"
    uses = ("subsample", "weight")
    reads = "the pilot"
    cost = ".65"
    uses_label = False
    gradient = True

    def quantities(self, given: Given) -> dict[str, tuple[Quantity, ...]]:
        """The squared norm over all parameters."""
        return {PILOT: (NORMS,)}

    def score(self, seen: Seen, given: Given) -> Tensor:
        """At least 0, [N]."""
        return seen.measured[PILOT][NORMS.key].sqrt()
