"""Log-loss of the label under the reference model: the baseline of every claim, never a weight by itself."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from sie_spark.importance.registry import Backward, register_scorer


@register_scorer
class Loss:
    """``-y log p - (1 - y) log(1 - p)``, from the logit."""

    name = "loss"
    uses_label = True

    def score(self, backward: Backward) -> Tensor:
        """Nats, [N], at least 0."""
        return functional.binary_cross_entropy_with_logits(backward.logit, backward.label, reduction="none")
