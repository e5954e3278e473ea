"""How rare the row's rarest id is: what a floor for the ids in the tail reads."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sie_spark.importance.contracts import Fit, Given, Scorer, Seen
from sie_spark.importance.fits.id_counts import IdCounts
from sie_spark.importance.registry import register_scorer

FIT = IdCounts()


@register_scorer
class Rarity(Scorer):
    """``1 / n`` with n the training rows of the row's rarest id; an id that no training row has counts as one.

    Id 0 stands for all values that the encoder does not know, and is an id like the others. Bags, histories and
    numbers are not looked at.
    """

    name = "rarity"
    version = 1
    citation = "inverse frequency"
    uses = ("subsample", "audit")
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
        """In (0, 1], [N]; 0 where rows have no id at all."""
        ids, counts = seen.batch.inputs.get("cat"), given.states[FIT.key]
        found = np.zeros(len(seen.batch))
        if ids is None:
            return torch.from_numpy(found)
        for field, column in enumerate(ids.numpy().T):
            known = counts[f"field_{field}"]
            rows = np.where(column < len(known), known[np.minimum(column, len(known) - 1)], 0)
            found = np.maximum(found, 1 / np.maximum(rows, 1))
        return torch.from_numpy(found)
