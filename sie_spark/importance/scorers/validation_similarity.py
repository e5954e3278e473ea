"""How much the row is like the rows that the model is to be good at."""

from __future__ import annotations

import torch
from torch import Tensor

from sie_spark.importance.contracts import Fit, Given, Scorer, Seen, needed
from sie_spark.importance.fits.neighbour_space import NeighbourSpace, Space
from sie_spark.importance.registry import register_scorer
from sie_spark.models.store import REFERENCE


@register_scorer
class ValidationSimilarity(Scorer):
    """Mean of ``exp(-d^2 / (2 r^2))`` over the k nearest validation rows, d the distance and r a radius.

    Distances are those of standardised inputs of the reference's last layer; k is ``importance.neighbours``; r is
    the radius that holds ``importance.neighbour_share`` of the training rows at the median validation row.
    """

    name = "validation_similarity"
    version = 1
    citation = "Parzen 1962, a Gaussian kernel over the nearest neighbours"
    uses = ("subsample", "weight")
    reads = "the reference; validation rows"
    cost = "1"
    options = ("sample_rows", "target_rows", "neighbour_share", "neighbours")
    uses_label = False

    def models(self, given: Given) -> tuple[str, ...]:
        """The reference."""
        return (needed(REFERENCE, given, self.name),)

    def fits(self, given: Given) -> tuple[Fit, ...]:
        """The space."""
        needed(REFERENCE, given, self.name)
        return (NeighbourSpace.of(given.settings),)

    def score(self, seen: Seen, given: Given) -> Tensor:
        """In [0, 1], float64 [N]."""
        space = Space.given(NeighbourSpace.of(given.settings), given)
        k = min(given.settings.neighbours, len(space.targets))
        found = torch.zeros(len(seen.batch), dtype=torch.float64)
        for rows, squared in space.near(seen):
            nearest = squared.topk(k, dim=1, largest=False, sorted=False).values
            found[rows] = (nearest.double() / (-2 * space.radius**2)).exp().mean(1)
        return found
