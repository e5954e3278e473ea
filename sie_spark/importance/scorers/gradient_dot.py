"""How much a step on this row would lower the validation loss, to first order."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from sie_spark.gradients import Dots, Quantity
from sie_spark.importance.contracts import REFERENCE, Fit, Given, ModelRef, Scorer, Seen, tensors
from sie_spark.importance.fits.validation_gradient import ValidationGradient
from sie_spark.importance.registry import register_scorer

FIT = ValidationGradient()


@register_scorer
class GradientDot(Scorer):
    """``<d loss_i / d theta, v>`` with v the gradient of the mean validation loss, both of the reference model."""

    name = "gradient_dot"
    version = 1
    citation = "Pruthi et al. 2020, with the final checkpoint alone"
    uses_label = True
    signed = True
    gradient = True

    def fits(self, known: Mapping[str, ModelRef]) -> tuple[Fit, ...]:
        """The direction."""
        return (FIT,)

    def quantities(self, given: Given) -> dict[str, tuple[Quantity, ...]]:
        """The dot with the direction."""
        return {REFERENCE: (Dots({"validation": tensors(given.states[FIT.key])}, key=FIT.key),)}

    def score(self, seen: Seen, given: Given) -> Tensor:
        """Loss per unit of learning rate, [N]; positive where the row helps."""
        return seen.slope() * seen.measured[REFERENCE][FIT.key][:, 0]
