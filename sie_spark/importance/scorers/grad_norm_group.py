"""Gradient norm of the loss over one group of parameters: where in the model a row would move something."""

from __future__ import annotations

from torch import Tensor

from sie_spark.gradients import Norms, Quantity
from sie_spark.importance.contracts import Given, Scorer, Seen
from sie_spark.importance.registry import register_scorer
from sie_spark.models.store import PILOT

KEY = "norm_of_group"


@register_scorer
class GradNormGroup(Scorer):
    """``|p - y| ||d logit / d theta_group||``; the group is what ``importance.parameter_group`` names.

    The default, ``input``, is the tables of ids in the models that come with the product.
    """

    name = "grad_norm_group"
    citation = "Paul et al. 2021, by group of parameters"
    uses = ("subsample", "audit")
    reads = "the pilot"
    cost = ".65"
    options = ("parameter_group",)
    uses_label = True
    gradient = True

    def quantities(self, given: Given) -> dict[str, tuple[Quantity, ...]]:
        """The group's squared norm."""
        return {PILOT: (Norms({"group": given.settings.parameter_group}, key=KEY),)}

    def score(self, seen: Seen, given: Given) -> Tensor:
        """At least 0, [N]."""
        return seen.slope(PILOT).abs() * seen.measured[PILOT][KEY][:, 0].sqrt()
