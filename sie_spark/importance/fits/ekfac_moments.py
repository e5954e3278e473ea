"""Second moments of the gradients in the Kronecker eigenbasis, one more pass over training rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from sie_spark.gradients import EKFAC, Basis
from sie_spark.importance.contracts import Accumulator, Fit, Given, Seen, State, tensors
from sie_spark.importance.fisher import FisherPass
from sie_spark.importance.fits.kronecker_factors import KroneckerFactors
from sie_spark.models.store import REFERENCE

WEIGHT = "_weight"


@dataclass(frozen=True)
class EkfacMoments(Fit):
    """``values/<parameter>``: eigenvalues that replace those of the factors (George et al. 2018)."""

    model: str = REFERENCE

    name: ClassVar[str] = "ekfac_moments"
    rows: ClassVar[Literal["train", "validation"]] = "train"

    def models(self) -> tuple[str, ...]:
        """The one model."""
        return (self.model,)

    def after(self) -> tuple[Fit, ...]:
        """The eigenbasis."""
        return (KroneckerFactors(self.model),)

    def open(self, given: Given) -> Accumulator:
        """See :class:`Fit`."""
        return _Moments(self.model, self.basis(given), given)

    def basis(self, given: Given) -> Basis:
        """Of the factors alone."""
        return Basis(tensors(given.states[KroneckerFactors(self.model).key]))

    def corrected(self, given: Given) -> Basis:
        """With the eigenvalues of this artefact."""
        return Basis({**self.basis(given).tensors, **tensors(given.states[self.key])})

    def finish(self, state: State, given: Given) -> State:
        """Mean second moments, rows counted by their weight."""
        found = EKFAC.from_state(self.basis(given), tensors(state)).basis().tensors
        rows_a_weight = float(state["count"]) / float(state[WEIGHT])
        return {
            name: (value * rows_a_weight).numpy()
            for name, value in found.items()
            if name.startswith("values/")
        }


class _Moments(Accumulator):
    def __init__(self, model: str, basis: Basis, given: Given) -> None:
        self.found = EKFAC(basis)
        self.fisher = FisherPass(model, given.settings)
        self.weight = 0.0

    def add(self, seen: Seen) -> None:
        self.fisher(seen, self.found)
        self.weight += float(seen.batch.weight.double().sum())

    def state(self) -> State:
        moments = {name: value.numpy() for name, value in self.found.state().items()}
        return moments | {WEIGHT: np.array(self.weight)}
