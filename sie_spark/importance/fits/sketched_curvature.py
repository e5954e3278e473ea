"""Curvature in the space of sketched gradients: what TRAK and LoGra invert."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from sie_spark.gradients import Quantity, TensorSketch
from sie_spark.importance.contracts import Accumulator, Fit, Given, Seen, State
from sie_spark.models.store import REFERENCE


@dataclass(frozen=True)
class SketchedCurvature(Fit):
    """``gauss_newton``: mean of ``p (1 - p) phi phi^T``; ``empirical``: mean of ``(p - y)^2 phi phi^T``; float64 [k, k].

    phi is the sketch of a training row's ``d logit / d theta``. ``parameters``: how many the model has.

    Parameters
    ----------
    size:
        of the sketch.
    """

    size: int

    name: ClassVar[str] = "sketched_curvature"
    rows: ClassVar[Literal["train", "validation"]] = "train"

    def models(self) -> tuple[str, ...]:
        """The reference."""
        return (REFERENCE,)

    def open(self, given: Given) -> Accumulator:
        """See :class:`Fit`."""
        return _Sums(TensorSketch(self.size))

    def finish(self, state: State, given: Given) -> State:
        """Means."""
        means = {name: state[name] / state["weight"] for name in ("gauss_newton", "empirical")}
        return means | {"parameters": state["parameters"] / state["parts"]}


class _Sums(Accumulator):
    def __init__(self, sketch: TensorSketch) -> None:
        self.sketch = sketch
        self.total: State = {}
        self.parameters = 0

    def quantities(self) -> dict[str, tuple[Quantity, ...]]:
        return {REFERENCE: (self.sketch,)}

    def add(self, seen: Seen) -> None:
        phi = seen.measured[REFERENCE][self.sketch.key]
        p, weight = seen.probability(REFERENCE), seen.batch.weight
        found = {
            "gauss_newton": (phi * (weight * p * (1 - p))[:, None]).T @ phi,
            "empirical": (phi * (weight * seen.slope(REFERENCE).square())[:, None]).T @ phi,
            "weight": weight.double().sum(),
        }
        for name, value in found.items():
            self.total[name] = self.total.get(name, np.zeros(value.shape)) + value.double().numpy()
        self.parameters = sum(x.numel() for x in seen.modules[REFERENCE].parameters() if x.requires_grad)

    def state(self) -> State:
        return self.total | {"parameters": np.array(float(self.parameters)), "parts": np.array(1.0)}
