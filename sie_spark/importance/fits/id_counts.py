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
        return summed(states)


class _Counts(Accumulator):
    def __init__(self) -> None:
        self.total: State = {}

    def add(self, seen: Seen) -> None:
        ids = seen.batch.inputs.get("cat")
        if ids is None:
            return
        for field, column in enumerate(ids.numpy().T):
            counts = grown(
                self.total, f"field_{field}", int(column.max(initial=0)) + 1, np.zeros(0, np.int64)
            )
            np.add.at(counts, column, 1)

    def state(self) -> State:
        return self.total


def grown(total: State, name: str, size: int, empty: np.ndarray) -> np.ndarray:
    """The array ``name`` of a total, made of ``empty`` and lengthened with zeros to ``size`` where it is shorter."""
    found = total.get(name, empty)
    if len(found) < size:
        found = np.concatenate([found, np.zeros((size - len(found), *found.shape[1:]), found.dtype)])
    total[name] = found
    return found


def summed(states: Iterable[State]) -> State:
    """Sums of arrays that reach as far as the greatest id that each knows (first axis)."""
    total: State = {}
    for state in states:
        for name, counts in state.items():
            grown(total, name, len(counts), counts[:0])[: len(counts)] += counts
    return total
