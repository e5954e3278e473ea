"""The baseline of every comparison: the same number of rows, drawn uniformly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sie_spark.platform.config.base import Settings
from sie_spark.weighting.registry import WeightPolicy, register_policy
from sie_spark.weighting.terms import Decision, Row


@register_policy
class Random(WeightPolicy):
    """``pi = budget`` for every row; no correction is needed."""

    name = "random"
    version = 1
    assumption = "none"
    citation = "simple random sampling"
    reads = ()
    corrects_by = "none"
    by_request = True

    def solve(self, pilot: Row, budget: float, options: Settings) -> dict[str, float]:
        """The budget itself."""
        return {"pi": budget}

    def decide(self, row: Row, constants: Mapping[str, float], ops: Any) -> Decision:
        """See the class."""
        return Decision(
            pi=ops.constant(row.label, constants["pi"]),
            offset=ops.constant(row.label, 0.0),
            weight=ops.constant(row.label, 1.0),
        )
