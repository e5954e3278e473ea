"""The baseline of every comparison: the same number of rows, drawn uniformly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sie_spark.platform.config import Weighting
from sie_spark.weighting.registry import register_policy
from sie_spark.weighting.terms import Decision, Row


@register_policy
class Random:
    """``pi = budget`` for every row; no correction is needed."""

    name = "random"
    version = 1
    uses_score = False
    biased = False
    corrects_by = "none"

    def solve(self, pilot: Row, settings: Weighting) -> dict[str, float]:
        """The budget itself."""
        return {"pi": settings.budget}

    def decide(self, row: Row, constants: Mapping[str, float], ops: Any) -> Decision:
        """See the class."""
        return Decision(
            pi=ops.constant(row.p, constants["pi"]),
            offset=ops.constant(row.p, 0.0),
            weight=ops.constant(row.p, 1.0),
        )
