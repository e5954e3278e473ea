"""Scores from sketches of the gradients: one short vector a row for the whole model."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from sie_spark.gradients import Quantity, TensorSketch
from sie_spark.importance.contracts import Fit, Given, Scorer, Seen, Use, damping_of, needed
from sie_spark.importance.fits.sketched_direction import SketchedDirection
from sie_spark.models.store import REFERENCE


class Sketched(Scorer):
    """``(p - y) <phi, (C + damping)^-1 t>``, of the reference before its refit.

    phi is a tensor sketch of ``d logit / d theta``; t is the mean of ``(p - y) phi`` over validation rows.
    """

    damped: ClassVar[float]  # damping that was best on held-out targets (benchmarks/attribution.py)
    curvature: ClassVar[Literal["gauss_newton", "empirical"]]
    uses: ClassVar[tuple[Use, ...]] = ("audit",)
    reads: ClassVar[str] = "the reference; validation rows; a pass for the sketched curvature"
    cost: ClassVar[str] = "1.1"
    options: ClassVar[tuple[str, ...]] = ("sketch_size", "damping")
    uses_label: ClassVar[bool] = True
    signed: ClassVar[bool] = True
    gradient: ClassVar[bool] = True

    def direction(self, given: Given) -> Fit:
        """What the sketch are multiplied by."""
        return SketchedDirection(self.curvature, given.settings.sketch_size, damping_of(given, self.damped))

    def models(self, given: Given) -> tuple[str, ...]:
        """The reference."""
        return (needed(REFERENCE, given, self.name),)

    def fits(self, given: Given) -> tuple[Fit, ...]:
        """The direction."""
        return (self.direction(given),)

    def quantities(self, given: Given) -> dict[str, tuple[Quantity, ...]]:
        """The sketches."""
        return {REFERENCE: (TensorSketch(given.settings.sketch_size),)}

    def score(self, seen: Seen, given: Given) -> Tensor:
        """Loss, [N]; positive where the row helps."""
        phi = seen.measured[REFERENCE][TensorSketch(given.settings.sketch_size).key]
        u = torch.from_numpy(given.states[self.direction(given).key]["direction"])
        return seen.slope(REFERENCE) * (phi @ u)
