"""The validation gradient through the inverse of projected curvature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from sie_spark.importance.contracts import Fit, Given, State
from sie_spark.importance.fits.projected_curvature import ProjectedCurvature
from sie_spark.importance.fits.projected_target import ProjectedTarget


@dataclass(frozen=True)
class ProjectedDirection(Fit):
    """``direction``: ``(C + damping mean diagonal)^-1 t``, float32 [k].

    Parameters
    ----------
    curvature:
        C: ``kernel`` or ``fisher``.
    rank:
        of the projection.
    damping:
        in units of the mean of C's diagonal.
    """

    curvature: Literal["kernel", "fisher"]
    rank: int
    damping: float

    name: ClassVar[str] = "projected_direction"
    rows: ClassVar[None] = None

    def after(self) -> tuple[Fit, ...]:
        """C and t."""
        return (ProjectedCurvature(self.rank), ProjectedTarget(self.rank))

    def finish(self, state: State, given: Given) -> State:
        """The direction."""
        curvature, target = (given.states[fit.key] for fit in self.after())
        found = damped(curvature[self.curvature], self.damping)
        return {"direction": np.linalg.solve(found, target["target"]).astype(np.float32)}


def damped(matrix: np.ndarray, damping: float) -> np.ndarray:
    """``C + damping mean diagonal of C``, [k, k]."""
    return matrix + damping * np.trace(matrix) / len(matrix) * np.eye(len(matrix))
