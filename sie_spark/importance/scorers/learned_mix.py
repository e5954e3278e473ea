"""A mix of scores that is learned on the validation window: what of them speaks for a lower validation loss."""

from __future__ import annotations

import torch
from torch import Tensor

from sie_spark.importance.combination import Combination
from sie_spark.importance.contracts import Fit, Given, Seen, needed
from sie_spark.importance.fits.mix_weights import TARGET, MixWeights
from sie_spark.importance.registry import SCORERS, register_scorer
from sie_spark.models.store import REFERENCE


@register_scorer
class LearnedMix(Combination):
    """``a + sum_k w_k (rank_k - 1/2)``: the least-squares prediction of score ``gradient_dot`` from ranks.

    To first order, weights ``1 + e s`` change the validation loss by ``-e sum_i s_i <d loss_i, v>``; of all mixes of
    one size the one along w lowers it most. Ren et al. (2018) weight rows by the same products batch by batch.
    """

    name = "learned_mix"
    citation = "after Ren et al. 2018"
    uses = ("audit",)
    reads = "the scores of importance.combine; the reference; validation rows"
    options = ("combine", "sample_rows")
    signed = True

    def names(self, given: Given) -> tuple[str, ...]:
        """As configured."""
        return tuple(given.settings.combine)

    def weights(self, given: Given) -> MixWeights:
        """What w is fitted by."""
        needed(REFERENCE, given, self.name)
        return MixWeights(self.sample(given, SCORERS[TARGET]), self.names(given))

    def fits(self, given: Given) -> tuple[Fit, ...]:
        """Those of the ranks, and the weights."""
        return (*super().fits(given), self.weights(given))

    def score(self, seen: Seen, given: Given) -> Tensor:
        """Loss per unit of learning rate, [N]; positive where the row is expected to help."""
        found = given.states[self.weights(given).key]
        return self.ranks(seen, given).sub(0.5) @ torch.from_numpy(found["weights"]) + float(found["level"])
