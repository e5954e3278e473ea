"""How many training rows every id has, of every category of the encoder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from sie_spark.importance.contracts import Accumulator, Fit, Given, Seen, State
from sie_spark.platform.config.stages import Importance


@dataclass(frozen=True)
class IdCounts(Fit):
    """Rows by id, int64: an array a category, ``field_0``, ``field_1``, ... in the order of column ``cat``."""

    name: ClassVar[str] = "id_counts"
    rows: ClassVar[Literal["train", "validation"]] = "train"

    def most(self, settings: Importance) -> None:
        """All rows."""

    def open(self, given: Given) -> Accumulator:
        """See :class:`Fit`."""
        return _Counts()

    def merge(self, states: Iterable[State]) -> State:
        """Sums; a partition counts as far as the greatest id that it has seen."""
        total: State = {}
        for state in states:
            for name, counts in state.items():
                total[name] = _sum(total[name], counts) if name in total else counts
        return total


class _Counts(Accumulator):
    def __init__(self) -> None:
        self.total: State = {}

    def add(self, seen: Seen) -> None:
        ids = seen.batch.inputs.get("cat")
        if ids is None:
            return
        for field, column in enumerate(ids.numpy().T):
            name, counts = f"field_{field}", np.bincount(column)
            self.total[name] = _sum(self.total[name], counts) if name in self.total else counts

    def state(self) -> State:
        return self.total


def _sum(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    found = np.zeros(max(len(one), len(two)), np.int64)
    found[: len(one)] += one
    found[: len(two)] += two
    return found
