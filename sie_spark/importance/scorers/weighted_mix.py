"""A mean of the ranks of several scores with weights of one's own."""

from __future__ import annotations

import torch
from torch import Tensor

from sie_spark.importance.combination import Combination
from sie_spark.importance.contracts import Given, Seen
from sie_spark.importance.registry import register_scorer
from sie_spark.platform.errors import ConfigError


@register_scorer
class WeightedMix(Combination):
    """``sum_k |w_k| rank_k / sum_k |w_k|`` over ``importance.mix``; a negative weight counts ``1 - rank_k``."""

    name = "weighted_mix"
    citation = "weighted Borda count"
    reads = "the scores of importance.mix"
    options = ("mix", "sample_rows")

    def names(self, given: Given) -> tuple[str, ...]:
        """As configured.

        Raises
        ------
        ConfigError
            where all weights are 0.
        """
        if not any(given.settings.mix.values()):
            raise ConfigError(
                "importance.mix has no weight other than 0", remedy="for example {error: 0.5, rarity: 0.5}"
            )
        return tuple(given.settings.mix)

    def score(self, seen: Seen, given: Given) -> Tensor:
        """In [0, 1], [N]."""
        weights = torch.tensor([given.settings.mix[name] for name in self.names(given)], dtype=torch.float64)
        ranks = self.ranks(seen, given)
        return torch.where(weights < 0, 1 - ranks, ranks) @ (weights.abs() / weights.abs().sum())
