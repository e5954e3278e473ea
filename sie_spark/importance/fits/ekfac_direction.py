"""The validation gradient through the inverse of EK-FAC's Fisher matrix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sie_spark.gradients import Basis
from sie_spark.importance.contracts import Fit, Given, State, tensors
from sie_spark.importance.fits.ekfac_moments import EkfacMoments
from sie_spark.importance.fits.kronecker_factors import KroneckerFactors
from sie_spark.importance.fits.validation_gradient import ValidationGradient
from sie_spark.models.store import REFERENCE

USUAL = 0.1  # damping that was best on held-out targets (benchmarks/attribution.py)
LEAST = 1e-12  # damping of a parameter that no row reaches


@dataclass(frozen=True)
class EkfacDirection(Fit):
    """``(F + damping mean eigenvalue of the parameter)^-1 v``: an array a parameter, of its shape.

    Parameters
    ----------
    damping:
        in units of each parameter's mean eigenvalue.
    """

    model: str = REFERENCE
    damping: float = USUAL

    name: ClassVar[str] = "ekfac_direction"
    rows: ClassVar[None] = None

    def after(self) -> tuple[Fit, ...]:
        """The eigenbasis, its eigenvalues, and v."""
        return (KroneckerFactors(self.model), EkfacMoments(self.model), ValidationGradient(self.model))

    def finish(self, state: State, given: Given) -> State:
        """The direction."""
        basis = EkfacMoments(self.model).corrected(given)
        vector = tensors(given.states[ValidationGradient(self.model).key])
        return {name: value.numpy() for name, value in preconditioned(basis, vector, self.damping).items()}


def preconditioned(basis: Basis, vector: Mapping[str, Tensor], damping: float) -> dict[str, Tensor]:
    """``(F + damping x mean eigenvalue)^-1 v``, each parameter with its own mean, as Grosse et al. 2023."""
    found: dict[str, Tensor] = {}
    for name, value in vector.items():
        mean = float(basis.tensors[f"values/{name}"].mean())
        found |= basis.solve({name: value}, damping=max(damping * mean, LEAST))
    return found
