"""How common the row's ids are."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sie_spark.importance.contracts import Fit, Given, Scorer, Seen
from sie_spark.importance.fits.id_counts import IdCounts
from sie_spark.importance.registry import register_scorer

FIT = IdCounts()


@register_scorer
class Frequency(Scorer):
    """Share of training rows that have the row's id, mean over the categories.

    Id 0 stands for all values that the encoder does not know, and is an id like the others. Bags, histories and
    numbers are not looked at.
    """

    name = "frequency"
    version = 1
    citation = "relative frequency"
    uses = ("weight", "audit")
    reads = "counts of ids"
    cost = ".01, and a pass for the counts"
    uses_label = False

    def models(self, given: Given) -> tuple[str, ...]:
        """None: features alone."""
        return ()

    def fits(self, given: Given) -> tuple[Fit, ...]:
        """The counts."""
        return (FIT,)

    def score(self, seen: Seen, given: Given) -> Tensor:
        """In [0, 1], float64 [N]; 0 where rows have no id at all."""
        ids, counts = seen.batch.inputs["cat"].numpy(), given.states[FIT.key]
        found = np.zeros(len(ids))
        for field, column in enumerate(ids.T):
            known = counts[f"field_{field}"]
            rows = np.where(column < len(known), known[np.minimum(column, len(known) - 1)], 0)
            found += rows / known.sum() / ids.shape[1]
        return torch.from_numpy(found)
