"""Exact gradient norm of the loss over all parameters, embeddings included (GraNd, Paul et al. 2021)."""

from __future__ import annotations

from torch import Tensor

from sie_spark.importance.registry import Backward, register_scorer


@register_scorer
class GradNorm:
    """``||d BCE / d theta|| = |p - y| ||d logit / d theta||``.

    The identity is exact for a single logit: the chain rule's outer factor ``d BCE / d logit`` is the
    number ``p - y``. One pass therefore yields the label-free norm (for sampling probabilities) and this one.
    """

    name = "grad_norm"
    uses_label = True

    def score(self, backward: Backward) -> Tensor:
        """At least 0, [N]."""
        return (backward.probability - backward.label).abs() * backward.logit_grad_norm
