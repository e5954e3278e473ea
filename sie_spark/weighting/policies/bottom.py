"""Keep the lowest scores: the easiest rows where the score is an error, biased."""

from __future__ import annotations

from sie_spark.weighting.pruning import Pruning
from sie_spark.weighting.registry import register_policy


@register_policy
class Bottom(Pruning):
    """Rows of the lowest score, without correction."""

    name = "bottom"
    version = 1
    citation = "Sorscher et al. 2022, for small data"
    price = "not measured yet"
    keeps = -1
