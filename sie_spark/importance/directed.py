"""Scores along a direction in parameter space: what a step on the row does to a target, to first order."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from sie_spark.gradients import Dots, Quantity
from sie_spark.importance.contracts import Fit, Given, Scorer, Seen, Use, needed, tensors
from sie_spark.models.store import REFERENCE


class Directed(Scorer):
    """``<d loss_i / d theta, u>`` of the reference before its refit, with u an artefact: an array a parameter.

    That model has not seen the validation rows; after the refit their mean gradient is near nothing.
    """

    uses: ClassVar[tuple[Use, ...]] = ("audit",)
    uses_label: ClassVar[bool] = True
    signed: ClassVar[bool] = True
    gradient: ClassVar[bool] = True

    @abstractmethod
    def direction(self, given: Given) -> Fit:
        """What u is fitted by."""

    def models(self, given: Given) -> tuple[str, ...]:
        """The reference."""
        return (needed(REFERENCE, given, self.name),)

    def fits(self, given: Given) -> tuple[Fit, ...]:
        """The direction."""
        return (self.direction(given),)

    def quantities(self, given: Given) -> dict[str, tuple[Quantity, ...]]:
        """The dot with the direction."""
        key = self.direction(given).key
        return {REFERENCE: (given.once(key, lambda: Dots({"u": tensors(given.states[key])}, key=key)),)}

    def score(self, seen: Seen, given: Given) -> Tensor:
        """Loss per unit of learning rate, [N]; positive where the row helps."""
        return seen.slope(REFERENCE) * seen.measured[REFERENCE][self.direction(given).key][:, 0]
