"""How much a step on this row would lower the validation loss, to first order."""

from __future__ import annotations

from torch import Tensor

from sie_spark.gradients import Dots, Quantity
from sie_spark.importance.contracts import Fit, Given, Scorer, Seen, needed, tensors
from sie_spark.importance.fits.validation_gradient import ValidationGradient
from sie_spark.importance.registry import register_scorer
from sie_spark.models.store import REFERENCE

FIT = ValidationGradient()


@register_scorer
class GradientDot(Scorer):
    """``<d loss_i / d theta, v>`` with v the gradient of the mean validation loss, both of the reference before its refit.

    It has not seen the validation rows then; after the refit their mean gradient is near nothing.
    """

    name = "gradient_dot"
    version = 1
    citation = "Pruthi et al. 2020, with the final checkpoint alone"
    uses = ("audit",)
    reads = "the reference; validation rows"
    cost = "a pass to the activations"
    uses_label = True
    signed = True
    gradient = True

    def models(self, given: Given) -> tuple[str, ...]:
        """The reference."""
        return (needed(REFERENCE, given, self.name),)

    def fits(self, given: Given) -> tuple[Fit, ...]:
        """The direction."""
        return (FIT,)

    def quantities(self, given: Given) -> dict[str, tuple[Quantity, ...]]:
        """The dot with the direction."""
        return {REFERENCE: (Dots({"validation": tensors(given.states[FIT.key])}, key=FIT.key),)}

    def score(self, seen: Seen, given: Given) -> Tensor:
        """Loss per unit of learning rate, [N]; positive where the row helps."""
        return seen.slope(REFERENCE) * seen.measured[REFERENCE][FIT.key][:, 0]
