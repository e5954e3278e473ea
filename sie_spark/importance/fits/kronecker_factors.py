"""Kronecker factors of a model's Fisher matrix, one pass over training rows, as their eigenbasis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from sie_spark.gradients import KFAC
from sie_spark.importance.contracts import Accumulator, Fit, Given, Seen, State, tensors
from sie_spark.importance.fisher import FisherPass
from sie_spark.models.store import REFERENCE


@dataclass(frozen=True)
class KroneckerFactors(Fit):
    """``left/<parameter>``, ``right/<parameter>``, ``values/<parameter>``: :class:`sie_spark.gradients.Basis`."""

    model: str = REFERENCE

    name: ClassVar[str] = "kronecker_factors"
    rows: ClassVar[Literal["train", "validation"]] = "train"

    def models(self) -> tuple[str, ...]:
        """The one model."""
        return (self.model,)

    def open(self, given: Given) -> Accumulator:
        """See :class:`Fit`."""
        return _Factors(self.model, given)

    def finish(self, state: State, given: Given) -> State:
        """The eigenbasis."""
        return {
            name: value.numpy() for name, value in KFAC.from_state(tensors(state)).basis().tensors.items()
        }


class _Factors(Accumulator):
    def __init__(self, model: str, given: Given) -> None:
        self.found = KFAC()
        self.fisher = FisherPass(model, given.settings)

    def add(self, seen: Seen) -> None:
        self.fisher(seen, self.found)

    def state(self) -> State:
        return {name: value.numpy() for name, value in self.found.state().items()}
