"""Curvature in the space of random projections of the gradients: what TRAK and LoGra invert."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from sie_spark.gradients import Projections, Quantity
from sie_spark.importance.contracts import Accumulator, Fit, Given, Seen, State
from sie_spark.models.store import REFERENCE


@dataclass(frozen=True)
class ProjectedCurvature(Fit):
    """``kernel``: mean of ``phi phi^T``; ``fisher``: mean of ``p (1 - p) phi phi^T``; float64 [k, k].

    phi is the projection of a training row's ``d logit / d theta``.

    Parameters
    ----------
    rank:
        of the projection.
    """

    rank: int

    name: ClassVar[str] = "projected_curvature"
    rows: ClassVar[Literal["train", "validation"]] = "train"

    def models(self) -> tuple[str, ...]:
        """The reference."""
        return (REFERENCE,)

    def open(self, given: Given) -> Accumulator:
        """See :class:`Fit`."""
        return _Sums(Projections(self.rank))

    def finish(self, state: State, given: Given) -> State:
        """Means."""
        return {name: state[name] / state["weight"] for name in ("kernel", "fisher")}


class _Sums(Accumulator):
    def __init__(self, projections: Projections) -> None:
        self.projections = projections
        self.total: State = {}

    def quantities(self) -> dict[str, tuple[Quantity, ...]]:
        return {REFERENCE: (self.projections,)}

    def add(self, seen: Seen) -> None:
        phi = seen.measured[REFERENCE][self.projections.key]
        p, weight = seen.probability(REFERENCE), seen.batch.weight
        found = {
            "kernel": (phi * weight[:, None]).T @ phi,
            "fisher": (phi * (weight * p * (1 - p))[:, None]).T @ phi,
            "weight": weight.double().sum(),
        }
        for name, value in found.items():
            self.total[name] = self.total.get(name, np.zeros(value.shape)) + value.double().numpy()

    def state(self) -> State:
        return self.total
