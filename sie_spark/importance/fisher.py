"""A pass whose gradients have the Fisher matrix as their second moment."""

from __future__ import annotations

import torch
from torch import Tensor

from sie_spark.gradients import Engine, Quantity
from sie_spark.importance.contracts import Seen
from sie_spark.platform.config.stages import Importance


class FisherPass:
    """Measures ``sqrt(w p (1 - p)) d logit / d theta``, whose mean outer product is the Fisher matrix.

    Of a single logit the mean over the model's own labels of ``(p - y)^2`` is ``p (1 - p)``, so no labels are drawn.
    It is a backward pass of its own: the shared one measures the logit's gradient, which knows no p.

    Parameters
    ----------
    model:
        whose gradients.
    """

    def __init__(self, model: str, settings: Importance) -> None:
        self.model = model
        self.materialise = tuple(settings.materialise)
        self.engine: Engine | None = None

    def __call__(self, seen: Seen, *quantities: Quantity) -> None:
        """Hand one micro-batch to quantities that add to sums of their own."""
        if self.engine is None:
            self.engine = Engine(seen.modules[self.model], materialise=self.materialise)
        weight = seen.batch.weight

        def loss(logit: Tensor) -> Tensor:
            p = torch.sigmoid(logit.detach())
            return (weight * p * (1 - p)).sqrt() * logit

        self.engine(seen.batch.inputs, loss, *quantities)
