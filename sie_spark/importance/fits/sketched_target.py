"""The validation gradient in the space of random sketch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from sie_spark.gradients import Quantity, TensorSketch
from sie_spark.importance.contracts import Accumulator, Fit, Given, Seen, State
from sie_spark.models.store import REFERENCE


@dataclass(frozen=True)
class SketchedTarget(Fit):
    """``target``: the weighted mean of ``(p - y) phi`` over validation rows, float64 [k].

    Parameters
    ----------
    size:
        of the sketch.
    """

    size: int

    name: ClassVar[str] = "sketched_target"
    rows: ClassVar[Literal["train", "validation"]] = "validation"

    def models(self) -> tuple[str, ...]:
        """The reference."""
        return (REFERENCE,)

    def open(self, given: Given) -> Accumulator:
        """See :class:`Fit`."""
        return _Sum(TensorSketch(self.size))

    def finish(self, state: State, given: Given) -> State:
        """The mean."""
        return {"target": state["sum"] / state["weight"]}


class _Sum(Accumulator):
    def __init__(self, sketch: TensorSketch) -> None:
        self.sketch = sketch
        self.total: State = {}

    def quantities(self) -> dict[str, tuple[Quantity, ...]]:
        return {REFERENCE: (self.sketch,)}

    def add(self, seen: Seen) -> None:
        weight = seen.batch.weight.double()
        phi = seen.measured[REFERENCE][self.sketch.key].double()
        found = {"sum": (weight * seen.slope(REFERENCE)) @ phi, "weight": weight.sum()}
        for name, value in found.items():
            self.total[name] = self.total.get(name, np.zeros(value.shape)) + value.numpy()

    def state(self) -> State:
        return self.total
