"""Uncertainty of the prediction, whatever the label."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from sie_spark.importance.registry import Backward, register_scorer


@register_scorer
class Entropy:
    """``-p log p - (1 - p) log(1 - p)``, from the logit."""

    name = "entropy"
    uses_label = False

    def score(self, backward: Backward) -> Tensor:
        """Nats, [N], between 0 and log 2."""
        g, p = backward.logit, backward.probability
        return p * functional.softplus(-g) + (1 - p) * functional.softplus(g)
