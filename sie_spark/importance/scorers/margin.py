"""Signed distance to the decision boundary: low or negative where the model disagrees with the label."""

from __future__ import annotations

from torch import Tensor

from sie_spark.importance.registry import Backward, register_scorer


@register_scorer
class Margin:
    """``(2 y - 1) logit``."""

    name = "margin"
    uses_label = True

    def score(self, backward: Backward) -> Tensor:
        """Logits, [N]; negative when the wrong side is predicted."""
        return (2 * backward.label - 1) * backward.logit
