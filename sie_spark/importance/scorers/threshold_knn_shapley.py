"""What a row is worth to a classifier that asks the training rows near each validation row."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sie_spark.importance.contracts import Fit, Given, Scorer, Seen, needed
from sie_spark.importance.fits.neighbour_counts import NeighbourCounts
from sie_spark.importance.fits.neighbour_space import NeighbourSpace, Space
from sie_spark.importance.registry import register_scorer
from sie_spark.importance.shapley import threshold_values
from sie_spark.models.store import REFERENCE


@register_scorer
class ThresholdKnnShapley(Scorer):
    """Shapley value of the row for the share of right votes within a radius, mean over validation rows by weight.

    Distances are those of standardised inputs of the reference's last layer. The radius holds
    ``importance.neighbour_share`` of the training rows at the median validation row, and no fewer rows of the sample
    it is measured on than ``importance.neighbours``. Neighbours are counted over all
    training rows; every scored row is then taken as one of those counted. For a row of the validation part that is
    as good as right where neighbours are many; it is judged as one more where no training row of its label is near.
    A distance that equals the radius but for rounding may fall on either side.
    """

    name = "threshold_knn_shapley"
    version = 1
    citation = "Wang et al. 2023, threshold k-NN Shapley"
    uses = ("audit",)
    reads = "the reference; training and validation rows near each other"
    cost = "1, and as much for the counts"
    options = ("sample_rows", "target_rows", "neighbour_share", "neighbours")
    uses_label = True
    signed = True

    def models(self, given: Given) -> tuple[str, ...]:
        """The reference."""
        return (needed(REFERENCE, given, self.name),)

    def fits(self, given: Given) -> tuple[Fit, ...]:
        """Space and counts."""
        needed(REFERENCE, given, self.name)
        space = NeighbourSpace.of(given.settings)
        return (space, NeighbourCounts(space))

    def score(self, seen: Seen, given: Given) -> Tensor:
        """Share of right votes, float64 [N]; positive where the row helps."""
        fit = NeighbourSpace.of(given.settings)
        space, counts = Space.given(fit, given), given.states[NeighbourCounts(fit).key]["counts"]
        values = given.once((self.name, fit.key), lambda: _values(space, counts))
        found = torch.zeros(len(seen.batch), dtype=torch.float64)
        clicked = (seen.batch.label > 0.5).long()[:, None]
        for rows, squared in space.near(seen):
            inside = (squared <= space.radius**2).double()
            found[rows] = (inside @ values).gather(1, clicked[rows])[:, 0]
        return found


def _values(space: Space, counts: np.ndarray) -> Tensor:
    """What a neighbour with label 0 and one with label 1 get of each target, float64 [v, 2]."""
    targets = np.arange(len(counts))
    found = threshold_values(counts.sum(1), counts[targets, space.labels.astype(int)])
    found[~space.labels] = found[~space.labels][:, ::-1]  # to a target without a click, label 0 is the match
    return torch.from_numpy(found * (space.weights / space.weights.sum())[:, None])
