"""How much a step on this row would lower the validation loss, to first order."""

from __future__ import annotations

from sie_spark.importance.contracts import Fit, Given
from sie_spark.importance.directed import Directed
from sie_spark.importance.fits.validation_gradient import ValidationGradient
from sie_spark.importance.registry import register_scorer


@register_scorer
class GradientDot(Directed):
    """``<d loss_i / d theta, v>`` with v the gradient of the mean validation loss."""

    name = "gradient_dot"
    citation = "Pruthi et al. 2020, with the final checkpoint alone"
    reads = "the reference; validation rows"
    cost = ".95"

    def direction(self, given: Given) -> Fit:
        """The validation gradient."""
        return ValidationGradient()
