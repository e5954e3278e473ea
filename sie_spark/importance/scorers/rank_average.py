"""The mean rank of several scores: none of them has to be trusted alone, and no unit matters."""

from __future__ import annotations

from torch import Tensor

from sie_spark.importance.combination import Combination
from sie_spark.importance.contracts import Given, Seen
from sie_spark.importance.registry import register_scorer


@register_scorer
class RankAverage(Combination):
    """The mean over the scores of ``importance.combine`` of the row's rank in each."""

    name = "rank_average"
    citation = "Borda count"
    reads = "the scores of importance.combine"
    options = ("combine", "sample_rows")

    def names(self, given: Given) -> tuple[str, ...]:
        """As configured."""
        return tuple(given.settings.combine)

    def score(self, seen: Seen, given: Given) -> Tensor:
        """In [0, 1], [N]."""
        return self.ranks(seen, given).mean(dim=1)
