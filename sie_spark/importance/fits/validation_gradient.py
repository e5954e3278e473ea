"""The gradient of the mean validation loss: the direction that gradient-based influence is measured along."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch

from sie_spark.importance.contracts import Accumulator, Fit, Given, Seen, State
from sie_spark.models.objective import BINARY, one_logit_a_row
from sie_spark.models.store import REFERENCE

ROWS = "rows"


@dataclass(frozen=True)
class ValidationGradient(Fit):
    """``sum_i w_i d loss_i / d theta / sum_i w_i`` over validation rows, w = 1 / sampling_rate.

    The artefact holds an array a parameter, float32 and of its shape, under the parameter's name.
    """

    model: str = REFERENCE

    name: ClassVar[str] = "validation_gradient"
    rows: ClassVar[Literal["train", "validation"]] = "validation"

    def models(self) -> tuple[str, ...]:
        """The one model."""
        return (self.model,)

    def open(self, given: Given) -> Accumulator:
        """See :class:`Fit`."""
        return _Sum(self.model)

    def finish(self, state: State, given: Given) -> State:
        """The mean, from sums of float64."""
        rows = float(state[ROWS])
        return {name: (values / rows).astype(np.float32) for name, values in state.items() if name != ROWS}


class _Sum(Accumulator):
    def __init__(self, model: str) -> None:
        self.model = model
        self.total: dict[str, torch.Tensor] = {}
        self.rows = 0.0

    def add(self, seen: Seen) -> None:
        module, batch = seen.modules[self.model], seen.batch
        named = {name: value for name, value in module.named_parameters() if value.requires_grad}
        with torch.enable_grad():
            losses = BINARY.losses(one_logit_a_row(module(**batch.inputs), batch), batch)
            found = torch.autograd.grad(losses.sum(), list(named.values()), allow_unused=True)
        for (name, value), gradient in zip(named.items(), found, strict=True):
            if name not in self.total:
                self.total[name] = torch.zeros(value.shape, dtype=torch.float64)
            if gradient is not None:
                self.total[name] += gradient
        self.rows += float(batch.weight.sum())

    def state(self) -> State:
        return {ROWS: np.array(self.rows)} | {name: total.numpy() for name, total in self.total.items()}
