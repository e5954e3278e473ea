"""What a weighting policy is, and the list of them: one file a policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

from sie_spark.platform.config import Weighting
from sie_spark.platform.registry import Registry
from sie_spark.weighting.terms import Decision, Row


class WeightPolicy(Protocol):
    """From scores to (pi, offset, weight).

    Attributes
    ----------
    name, version:
        written beside every kept row; the version changes when the formula does.
    uses_score:
        whether ``weighting.score`` enters; otherwise only p and the label-free norm do.
    biased:
        whether the fit's target differs from the full data's even in the limit.
    corrects_by:
        ``offset``, ``weight`` or ``none``: what makes the subset stand for all rows.
    """

    name: str
    version: int
    uses_score: bool
    biased: bool
    corrects_by: str

    def solve(self, pilot: Row, settings: Weighting) -> dict[str, float]:
        """Constants of the formula from a bounded uniform sample (float64 arrays), such that the expected
        share of kept rows is ``settings.budget``."""
        ...

    def decide(self, row: Row, constants: Mapping[str, float], ops: Any) -> Decision:
        """The formula, elementwise; arrays and Spark columns alike."""
        ...


P = TypeVar("P", bound=WeightPolicy)

POLICIES: Registry[WeightPolicy] = Registry(
    "policy", "policies", setting="weighting.policy", home="sie_spark.weighting.policies"
)


def register_policy(cls: type[P]) -> type[P]:
    """Make a policy available as ``weighting.policy: <name>``."""
    instance = cls()
    POLICIES.register(instance.name, instance)
    return cls
