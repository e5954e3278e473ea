"""How many training rows every id has, by label and by fold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from sie_spark.importance.contracts import Accumulator, Fit, Given, Seen, State
from sie_spark.importance.fits.id_counts import grown, summed
from sie_spark.models import Batch
from sie_spark.platform.config.stages import Importance
from sie_spark.platform.draws import uniform

FOLDS = 4
PURPOSE = "fold"


@dataclass(frozen=True)
class LabelCounts(Fit):
    """Weights of rows by id, fold and label, float64 [ids, 4, 2]: ``field_0``, ... in the order of column ``cat``.

    ``all`` [1, 4, 2] are those of all rows. An array reaches as far as the greatest id of a training row; the fold of
    a row is a hash of its id.
    """

    name: ClassVar[str] = "label_counts"
    rows: ClassVar[Literal["train", "validation"]] = "train"

    def most(self, settings: Importance) -> None:
        """All rows."""

    def open(self, given: Given) -> Accumulator:
        """See :class:`Fit`."""
        return _Counts()

    def merge(self, states: Iterable[State]) -> State:
        """Sums."""
        return summed(states)


class _Counts(Accumulator):
    def __init__(self) -> None:
        self.total: State = {}

    def add(self, seen: Seen) -> None:
        batch = seen.batch
        fold, label = folds(batch), (batch.label > 0.5).long().numpy()
        fields = {"all": np.zeros(len(batch), np.int64)}
        fields |= {f"field_{at}": column for at, column in enumerate(batch.inputs["cat"].numpy().T)}
        for name, ids in fields.items():
            counts = grown(self.total, name, int(ids.max(initial=0)) + 1, np.zeros((0, FOLDS, 2)))
            np.add.at(counts, (ids, fold, label), batch.weight.double().numpy())

    def state(self) -> State:
        return self.total


def folds(batch: Batch) -> np.ndarray:
    """Fold of each row, int64 [N]."""
    return (FOLDS * uniform(batch.sample_id.numpy(), seed=0, purpose=PURPOSE)).astype(np.int64)
