"""Whether the row's ids speak for its label or against it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sie_spark.importance.contracts import Fit, Given, Scorer, Seen
from sie_spark.importance.fits.label_counts import LabelCounts, folds
from sie_spark.importance.registry import register_scorer

FIT = LabelCounts()
PRIOR = 20.0  # rows at the mean that are added to those of an id


@register_scorer
class PointwiseMutualInformation(Scorer):
    """Sum over the categories of ``log p(y | id) / p(y)``, y the row's label, out of fold.

    Training rows are counted by weight in four folds, by a hash of the row's id. A row is judged by the three folds
    it is not in, so that its own label does not speak for itself. ``p(y | id)`` is smoothed towards p(y) by 20 rows,
    and p(y) by one row of each label. A row high up has ids whose rows mostly have its label; a row far down has a
    label that its ids speak against. An id that no other fold knows says nothing. Bags, histories and numbers are
    not looked at.
    """

    name = "pointwise_mutual_information"
    version = 1
    citation = "Fano 1961; Church & Hanks 1990"
    uses = ("clean",)
    reads = "counts of ids by label"
    cost = ".15, and a pass for the counts"
    uses_label = True
    signed = True

    def models(self, given: Given) -> tuple[str, ...]:
        """None: features alone."""
        return ()

    def fits(self, given: Given) -> tuple[Fit, ...]:
        """The counts."""
        return (FIT,)

    def score(self, seen: Seen, given: Given) -> Tensor:
        """In nats, float64 [N]; 0 where rows have no id at all."""
        known, batch = given.states[FIT.key], seen.batch
        fold, label = folds(batch), (batch.label > 0.5).long().numpy()
        rows = np.arange(len(fold))

        def others(counts: np.ndarray) -> np.ndarray:
            """By label, the sums of the folds that the row is not in, [N, 2]."""
            return counts.sum(1) - counts[rows, fold]

        whole = others(np.repeat(known["all"], len(fold), axis=0))
        mean = (whole[rows, label] + 1) / (whole.sum(1) + 2)
        found = np.zeros(len(fold))
        for field, ids in enumerate(batch.inputs["cat"].numpy().T):
            counts = known[f"field_{field}"]
            mine = others(counts[np.minimum(ids, len(counts) - 1)] * (ids < len(counts))[:, None, None])
            rate = (mine[rows, label] + PRIOR * mean) / (mine.sum(1) + PRIOR)
            found += np.log(rate / mean)
        return torch.from_numpy(found)
