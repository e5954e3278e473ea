"""Scores from random projections of the gradients."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from sie_spark.gradients import Projections, Quantity
from sie_spark.importance.contracts import Fit, Given, Scorer, Seen, Use, needed
from sie_spark.importance.fits.projected_direction import ProjectedDirection
from sie_spark.models.store import REFERENCE


class Projected(Scorer):
    """``(p - y) <phi, (C + damping)^-1 t>``, of the reference before its refit.

    phi projects ``d logit / d theta``; t is the mean of ``(p - y) phi`` over validation rows.
    """

    curvature: ClassVar[Literal["kernel", "fisher"]]
    uses: ClassVar[tuple[Use, ...]] = ("audit",)
    reads: ClassVar[str] = "the reference; validation rows; a pass for the projected curvature"
    cost: ClassVar[str] = "1.1"
    options: ClassVar[tuple[str, ...]] = ("projection_rank", "damping")
    uses_label: ClassVar[bool] = True
    signed: ClassVar[bool] = True
    gradient: ClassVar[bool] = True

    def direction(self, given: Given) -> Fit:
        """What the projections are multiplied by."""
        return ProjectedDirection(self.curvature, given.settings.projection_rank, given.settings.damping)

    def models(self, given: Given) -> tuple[str, ...]:
        """The reference."""
        return (needed(REFERENCE, given, self.name),)

    def fits(self, given: Given) -> tuple[Fit, ...]:
        """The direction."""
        return (self.direction(given),)

    def quantities(self, given: Given) -> dict[str, tuple[Quantity, ...]]:
        """The projections."""
        return {REFERENCE: (Projections(given.settings.projection_rank),)}

    def score(self, seen: Seen, given: Given) -> Tensor:
        """Loss, [N]; positive where the row helps."""
        phi = seen.measured[REFERENCE][Projections(given.settings.projection_rank).key]
        u = torch.from_numpy(given.states[self.direction(given).key]["direction"])
        return seen.slope(REFERENCE) * (phi @ u)
