"""What the fit's steps on this row did to the validation loss, summed over models kept on its way."""

from __future__ import annotations

import torch
from torch import Tensor

from sie_spark.gradients import Dots, Quantity
from sie_spark.importance.checkpoints import checkpoints
from sie_spark.importance.contracts import Fit, Given, Scorer, Seen, tensors
from sie_spark.importance.fits.validation_gradient import ValidationGradient
from sie_spark.importance.registry import register_scorer


@register_scorer
class TracIn(Scorer):
    """``sum_c eta_c <d loss_i / d theta_c, v_c>`` over kept epochs c, with v_c the validation gradient there.

    eta_c is the mean learning rate of the epoch that ended with checkpoint c.
    """

    name = "tracin"
    version = 1
    citation = "TracInCP, Pruthi et al. 2020"
    uses = ("audit",)
    reads = "training.keep_epochs; validation rows"
    cost = ".95 a kept epoch"
    uses_label = True
    signed = True
    gradient = True

    def models(self, given: Given) -> tuple[str, ...]:
        """The checkpoints of the reference model, without the final one."""
        return checkpoints(given, self.name)

    def fits(self, given: Given) -> tuple[Fit, ...]:
        """A direction a checkpoint."""
        return tuple(ValidationGradient(name) for name in self.models(given))

    def quantities(self, given: Given) -> dict[str, tuple[Quantity, ...]]:
        """A dot a checkpoint."""
        found: dict[str, tuple[Quantity, ...]] = {}
        for name in self.models(given):
            key = ValidationGradient(name).key
            found[name] = (Dots({"validation": tensors(given.states[key])}, key=key),)
        return found

    def score(self, seen: Seen, given: Given) -> Tensor:
        """Loss, [N]; positive where the row helped."""
        terms = [
            given.models[name].learning_rate
            * seen.slope(name)
            * seen.measured[name][ValidationGradient(name).key][:, 0]
            for name in self.models(given)
        ]
        return torch.stack(terms).sum(dim=0)
