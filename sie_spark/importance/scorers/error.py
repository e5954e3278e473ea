"""How far the prediction is from the label: EL2N of a single-logit model (Paul et al. 2021)."""

from __future__ import annotations

from torch import Tensor

from sie_spark.importance.registry import Backward, register_scorer


@register_scorer
class Error:
    """``|p - y|``."""

    name = "error"
    uses_label = True

    def score(self, backward: Backward) -> Tensor:
        """In [0, 1], [N]."""
        return (backward.probability - backward.label).abs()
