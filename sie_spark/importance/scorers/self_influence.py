"""How much the fit's steps on this row lowered its own loss: high for rows that must be memorised."""

from __future__ import annotations

import torch
from torch import Tensor

from sie_spark.gradients import Norms, Quantity
from sie_spark.importance.checkpoints import checkpoints
from sie_spark.importance.contracts import Given, Scorer, Seen
from sie_spark.importance.registry import register_scorer

NORMS = Norms()


@register_scorer
class SelfInfluence(Scorer):
    """``sum_c eta_c ||d loss_i / d theta_c||^2`` over the epochs c that the reference fit kept."""

    name = "self_influence"
    citation = "Pruthi et al. 2020"
    uses = ("audit",)
    reads = "training.keep_epochs"
    cost = ".65 a kept epoch"
    uses_label = True
    gradient = True

    def models(self, given: Given) -> tuple[str, ...]:
        """The checkpoints of the reference model, without the final one."""
        return checkpoints(given, self.name)

    def quantities(self, given: Given) -> dict[str, tuple[Quantity, ...]]:
        """A squared norm a checkpoint."""
        return dict.fromkeys(self.models(given), (NORMS,))

    def score(self, seen: Seen, given: Given) -> Tensor:
        """Loss, [N], at least 0."""
        terms = [
            given.models[name].learning_rate * seen.slope(name).square() * seen.measured[name][NORMS.key]
            for name in self.models(given)
        ]
        return torch.stack(terms).sum(dim=0)
