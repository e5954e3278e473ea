"""The validation gradient through the inverse of the Gauss-Newton matrix of a sample, by conjugate gradients."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from sie_spark.gradients import Engine, GaussNewton, Norms, conjugate_gradient
from sie_spark.importance.contracts import Fit, Given, State, tensors
from sie_spark.importance.fits.row_sample import RowSample, batch_of
from sie_spark.importance.fits.validation_gradient import ValidationGradient
from sie_spark.models import Batch
from sie_spark.models.cache import CACHE
from sie_spark.models.objective import BINARY
from sie_spark.models.store import REFERENCE, model_from_bytes

TOLERANCE = 0.03  # a smaller one says no more of retraining
NORMS = Norms()
RESIDUAL = "_residual"


@dataclass(frozen=True)
class ConjugateDirection(Fit):
    """``(G + damping mean eigenvalue of G)^-1 v``: an array a parameter, of its shape; and ``_residual``, relative.

    Parameters
    ----------
    sample_rows:
        training rows that G is the mean of, on the driver.
    damping:
        in units of the mean eigenvalue.
    iterations:
        at most.
    """

    sample_rows: int
    damping: float
    iterations: int

    name: ClassVar[str] = "conjugate_direction"
    rows: ClassVar[None] = None

    def models(self) -> tuple[str, ...]:
        """The reference."""
        return (REFERENCE,)

    def after(self) -> tuple[Fit, ...]:
        """The sample, and v."""
        return (RowSample("train", self.sample_rows), ValidationGradient())

    def finish(self, state: State, given: Given) -> State:
        """The direction."""
        reference = given.models[REFERENCE]
        module, _ = CACHE.get(reference.uri, reference.digest, partial(model_from_bytes, where=reference.uri))
        module = copy.deepcopy(module).double()  # conjugate gradients multiply rounding errors
        rows = in_double(batch_of(given.states[RowSample("train", self.sample_rows).key]))
        parts = list(rows.split(given.settings.micro_batch))
        raw = tuple(given.settings.materialise)
        found = conjugate_gradient(
            GaussNewton(module, [(part.inputs, partial(_losses, part)) for part in parts], materialise=raw),
            {name: value.double() for name, value in tensors(given.states[ValidationGradient().key]).items()},
            damping=self.damping * mean_eigenvalue(module, parts, raw),
            max_iterations=self.iterations,
            tolerance=TOLERANCE,
        )
        return {RESIDUAL: np.array(found.report.residuals[-1])} | {
            name: value.float().numpy() for name, value in found.x.items()
        }

    def cautions(self, state: State) -> list[str]:
        """That it did not converge."""
        left = float(state[RESIDUAL])
        if left <= TOLERANCE:
            return []
        return [
            f"influence_cg: conjugate gradients left {left:.1%} of the validation gradient unexplained after "
            f"{self.iterations} steps; raise importance.iterations or importance.damping."
        ]


def in_double(batch: Batch) -> Batch:
    """The rows with float64 inputs, and weights of mean 1."""
    inputs = {
        name: value.double() if value.is_floating_point() else value for name, value in batch.inputs.items()
    }
    weight = batch.weight.double()
    return replace(
        batch,
        inputs=inputs,
        label=batch.label.double(),
        offset=batch.offset.double(),
        weight=weight / weight.mean(),
    )


def mean_eigenvalue(module: nn.Module, parts: Sequence[Batch], materialise: tuple[str, ...]) -> float:
    """Of the mean Gauss-Newton matrix: its trace over the number of parameters."""
    engine, trace, weight = Engine(module, materialise=materialise), 0.0, 0.0
    for part in parts:
        result = engine(part.inputs, lambda logit: logit, NORMS)
        p = torch.sigmoid(result.output)
        trace += float((part.weight * p * (1 - p) * result[NORMS.key]).sum())
        weight += float(part.weight.sum())
    return trace / weight / sum(shape.numel() for shape in engine.shapes.values())


def _losses(batch: Batch, logit: Tensor) -> Tensor:
    return BINARY.losses(logit, batch)
