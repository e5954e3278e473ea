"""How many training rows lie near each target, and how many of them were clicked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from sie_spark.importance.contracts import Accumulator, Fit, Given, Seen, State
from sie_spark.importance.fits.neighbour_space import NeighbourSpace, Space
from sie_spark.models.store import REFERENCE
from sie_spark.platform.config.stages import Importance


@dataclass(frozen=True)
class NeighbourCounts(Fit):
    """``counts`` int64 [v, 2]: training rows within the radius of each target, by label 0 and 1; every row counts once."""

    space: NeighbourSpace

    name: ClassVar[str] = "neighbour_counts"
    rows: ClassVar[Literal["train", "validation"]] = "train"

    def models(self) -> tuple[str, ...]:
        """The reference."""
        return (REFERENCE,)

    def after(self) -> tuple[Fit, ...]:
        """The space."""
        return (self.space,)

    def most(self, settings: Importance) -> None:
        """All rows."""

    def open(self, given: Given) -> Accumulator:
        """See :class:`Fit`."""
        return _Counts(Space.given(self.space, given))


class _Counts(Accumulator):
    def __init__(self, space: Space) -> None:
        self.space = space
        self.counts = np.zeros((len(space.targets), 2), np.int64)

    def add(self, seen: Seen) -> None:
        clicked = seen.batch.label > 0.5
        for rows, squared in self.space.near(seen):
            inside = squared <= self.space.radius**2
            for label in (0, 1):
                self.counts[:, label] += inside[clicked[rows] == bool(label)].sum(0).numpy()

    def state(self) -> State:
        return {"counts": self.counts}
