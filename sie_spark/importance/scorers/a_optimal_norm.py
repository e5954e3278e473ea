"""The label-free gradient of the last layer, measured by the inverse information: A-optimal sampling."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sie_spark.importance.contracts import Fit, Given, ModelRef, Scorer, Seen
from sie_spark.importance.fits.last_layer_information import LastLayerInformation
from sie_spark.importance.last_layer import last_layer_inputs
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
    uses_label = False

    def fits(self, known: Mapping[str, ModelRef]) -> tuple[Fit, ...]:
        """The information matrix."""
        return (FIT,)

    def score(self, seen: Seen, given: Given) -> Tensor:
        """At least 0, [N]."""
        inverse = torch.from_numpy(given.states[FIT.key]["inverse"])
        return (last_layer_inputs(seen.modules[PILOT], seen.batch.inputs) @ inverse).norm(dim=1)
