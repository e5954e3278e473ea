"""What a row is worth to a k-NN classifier, exactly: for small training parts."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sie_spark.importance.contracts import Fit, Given, Scorer, Seen, needed
from sie_spark.importance.fits.knn_values import KnnValues
from sie_spark.importance.fits.neighbour_space import NeighbourSpace
from sie_spark.importance.registry import register_scorer
from sie_spark.models.store import REFERENCE


@register_scorer
class KnnShapley(Scorer):
    """Shapley value of the row for the share of right votes among the k nearest, mean over validation rows by weight.

    Distances are those of standardised inputs of the reference's last layer; k is ``importance.neighbours``. More
    training rows than ``importance.sample_rows`` are refused. A row that is not in the training part, with
    this label, gets 0: it has no vote.
    """

    name = "knn_shapley"
    version = 1
    citation = "Jia et al. 2019, k-NN Shapley"
    uses = ("audit",)
    reads = "the reference; all training rows, importance.sample_rows at most; validation rows"
    cost = ".01, and a sort of all rows a target on the driver"
    options = ("sample_rows", "target_rows", "neighbour_share", "neighbours")
    uses_label = True
    signed = True

    def models(self, given: Given) -> tuple[str, ...]:
        """None in the score pass; the values come from the reference."""
        return ()

    def fits(self, given: Given) -> tuple[Fit, ...]:
        """The values."""
        needed(REFERENCE, given, self.name)
        return (_fit(given),)

    def score(self, seen: Seen, given: Given) -> Tensor:
        """Share of right votes, float64 [N]; positive where the row helps."""
        known, batch = given.states[_fit(given).key], seen.batch
        ids, clicked = batch.sample_id.numpy(), (batch.label > 0.5).numpy()
        place = np.minimum(np.searchsorted(known["sample_id"], ids), len(known["sample_id"]) - 1)
        voted = (known["sample_id"][place] == ids) & (known["label"][place] == clicked)
        return torch.from_numpy(np.where(voted, known["value"][place], 0.0))


def _fit(given: Given) -> KnnValues:
    return KnnValues(NeighbourSpace.of(given.settings), given.settings.neighbours)
