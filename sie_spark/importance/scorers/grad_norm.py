"""Exact gradient norm of the loss over all parameters, embeddings included (GraNd, Paul et al. 2021)."""

from __future__ import annotations

from torch import Tensor

from sie_spark.gradients import Norms, Quantity
from sie_spark.importance.contracts import Given, Scorer, Seen
from sie_spark.importance.registry import register_scorer
from sie_spark.models.store import PILOT

NORMS = Norms()


@register_scorer
class GradNorm(Scorer):
    """``||d BCE / d theta|| = |p - y| ||d logit / d theta||``.

    The identity is exact for a single logit: the chain rule's outer factor ``d BCE / d logit`` is the
    number ``p - y``. One pass therefore yields the label-free norm (for sampling probabilities) and this one.
    """

    name = "grad_norm"
    version = 1
    citation = "Paul et al. 2021"
    uses = ("subsample", "audit")
    reads = "the pilot"
    cost = ".65"
    uses_label = True
    gradient = True

    def quantities(self, given: Given) -> dict[str, tuple[Quantity, ...]]:
        """The squared norm over all parameters."""
        return {PILOT: (NORMS,)}

    def score(self, seen: Seen, given: Given) -> Tensor:
        """At least 0, [N]."""
        return seen.slope(PILOT).abs() * seen.measured[PILOT][NORMS.key].sqrt()
