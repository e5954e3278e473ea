"""The information matrix of the pilot's last layer: what A-optimal sampling measures gradients by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from sie_spark.importance.contracts import Accumulator, Fit, Given, Seen, State
from sie_spark.models.store import PILOT

DAMPING = 1e-3  # of the mean diagonal: units that never fire have none of their own


@dataclass(frozen=True)
class LastLayerInformation(Fit):
    """``inverse``: of ``M = mean p (1 - p) [h, 1] [h, 1]^T`` over training rows, damped; float64 [width + 1, width + 1]."""

    name: ClassVar[str] = "last_layer_information"
    rows: ClassVar[Literal["train", "validation"]] = "train"

    def models(self) -> tuple[str, ...]:
        """The pilot."""
        return (PILOT,)

    def open(self, given: Given) -> Accumulator:
        """See :class:`Fit`."""
        return _Sum()

    def finish(self, state: State, given: Given) -> State:
        """The inverse."""
        mean = state["sum"] / state["rows"]
        mean[np.diag_indices_from(mean)] += DAMPING * float(np.trace(mean)) / len(mean)
        return {"inverse": np.linalg.inv(mean)}


class _Sum(Accumulator):
    def __init__(self) -> None:
        self.total: np.ndarray | None = None
        self.rows = 0.0

    def add(self, seen: Seen) -> None:
        h = seen.last_inputs(PILOT)
        p, weight = seen.probability(PILOT).double(), seen.batch.weight.double()
        found = ((h * (weight * p * (1 - p))[:, None]).T @ h).numpy()
        self.total = found if self.total is None else self.total + found
        self.rows += float(weight.sum())

    def state(self) -> State:
        return {} if self.total is None else {"sum": self.total, "rows": np.array(self.rows)}
