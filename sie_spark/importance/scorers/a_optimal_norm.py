"""The label-free gradient of the last layer, measured by the inverse information: A-optimal sampling."""

from __future__ import annotations

import torch
from torch import Tensor

from sie_spark.importance.contracts import Fit, Given, Scorer, Seen
from sie_spark.importance.fits.last_layer_information import LastLayerInformation
from sie_spark.importance.registry import register_scorer
from sie_spark.models.store import PILOT

FIT = LastLayerInformation()


@register_scorer
class AOptimalNorm(Scorer):
    """``||M^-1 [h, 1]||`` with h what the last layer is given and M its information matrix.

    Times p it minimises the trace of the variance of that layer's parameters. The layers below are taken as fixed.
    It costs a second forward pass, and one over ``importance.fit_rows`` rows for M.
    """

    name = "a_optimal_norm"
    version = 1
    citation = "Wang, Zhang & Wang 2021, of the last layer"
    uses = ("subsample",)
    reads = "the pilot; a matrix of its last layer"
    cost = ".7"
    uses_label = False

    def fits(self, given: Given) -> tuple[Fit, ...]:
        """The information matrix."""
        return (FIT,)

    def score(self, seen: Seen, given: Given) -> Tensor:
        """At least 0, [N]."""
        inverse = torch.from_numpy(given.states[FIT.key]["inverse"])
        return (seen.last_inputs(PILOT) @ inverse).norm(dim=1)
