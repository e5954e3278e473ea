"""What a model is fitted for: its loss, its predictions and the rules of offset and weight, in one object.

The fit, the workers that score, prediction and the served model ask it alike, so that another kind of label
comes in here and nowhere else.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from sie_spark.models.batch import Batch
from sie_spark.platform.errors import ModelError


class Objective(Protocol):
    """A loss a row and predictions by task.

    Attributes
    ----------
    tasks:
        names of what is predicted, in the order of the model's outputs.
    """

    tasks: tuple[str, ...]

    def losses(self, output: Tensor, batch: Batch) -> Tensor:
        """Loss of each row, [N], its offset and weight taken in."""
        ...

    def predictions(self, output: Tensor) -> dict[str, Tensor]:
        """Task -> probability or value, [N] each; offset and weight play no part in them."""
        ...


class Binary:
    """A label of 0 or 1: ``w BCE(sigmoid(g + l), y)`` with weight w, log-odds offset l and logit g; g is served."""

    tasks: tuple[str, ...] = ("label",)

    def losses(self, output: Tensor, batch: Batch) -> Tensor:
        """See :class:`Objective`; ``output`` is the logit, [N]."""
        loss = functional.binary_cross_entropy_with_logits(
            output + batch.offset, batch.label, reduction="none"
        )
        return loss * batch.weight

    def predictions(self, output: Tensor) -> dict[str, Tensor]:
        """See :class:`Objective`."""
        return {"label": torch.sigmoid(output)}


BINARY = Binary()


def one_logit_a_row(output: Tensor, batch: Batch, *, model: str = "the model") -> Tensor:
    """The output itself, float [N].

    Raises
    ------
    ModelError
        for an output of another shape.
    """
    if output.shape != batch.label.shape:
        raise ModelError(
            f"{model} returned logits of shape {list(output.shape)} for {len(batch)} rows",
            remedy="return one logit a row, float32 [N] (squeeze the last dimension)",
        )
    return output
