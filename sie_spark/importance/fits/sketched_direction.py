"""The validation gradient through the inverse of sketched curvature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from sie_spark.importance.contracts import Fit, Given, State
from sie_spark.importance.fits.sketched_curvature import SketchedCurvature
from sie_spark.importance.fits.sketched_target import SketchedTarget


@dataclass(frozen=True)
class SketchedDirection(Fit):
    """``direction``: ``(C + damping mean eigenvalue)^-1 t``, float32 [k].

    A sketch keeps the trace of the curvature, and has fewer eigenvalues to share it: the mean eigenvalue is that of
    the curvature itself, its trace over the number of the model's parameters.

    Parameters
    ----------
    curvature:
        C: ``gauss_newton`` or ``empirical``.
    size:
        of the sketch.
    damping:
        in units of the mean eigenvalue.
    """

    curvature: Literal["gauss_newton", "empirical"]
    size: int
    damping: float

    name: ClassVar[str] = "sketched_direction"
    rows: ClassVar[None] = None

    def after(self) -> tuple[Fit, ...]:
        """C and t."""
        return (SketchedCurvature(self.size), SketchedTarget(self.size))

    def finish(self, state: State, given: Given) -> State:
        """The direction."""
        curvature, target = (given.states[fit.key] for fit in self.after())
        matrix = curvature[self.curvature]
        shift = self.damping * np.trace(matrix) / float(curvature["parameters"])
        found = np.linalg.solve(matrix + shift * np.eye(len(matrix)), target["target"])
        return {"direction": found.astype(np.float32)}
