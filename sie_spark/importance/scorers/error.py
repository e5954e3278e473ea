"""How far the prediction is from the label: EL2N of a single-logit model (Paul et al. 2021)."""

from __future__ import annotations

from torch import Tensor

from sie_spark.importance.contracts import Given, Scorer, Seen
from sie_spark.importance.registry import register_scorer
from sie_spark.models.store import PILOT


@register_scorer
class Error(Scorer):
    """``|p - y|``: the size of d loss / d logit, and EL2N of a single-logit model."""

    name = "error"
    version = 1
    citation = "Paul et al. 2021"
    uses = ("subsample",)
    reads = "the pilot"
    cost = ".35"
    uses_label = True

    def score(self, seen: Seen, given: Given) -> Tensor:
        """In [0, 1], [N]."""
        return seen.slope(PILOT).abs()
