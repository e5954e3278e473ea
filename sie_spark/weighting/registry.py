"""What a weighting policy is, and the list of them: one file a policy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeVar

from sie_spark.platform.config.base import Settings
from sie_spark.platform.registry import Registry
from sie_spark.weighting.terms import Decision, Row


class WeightPolicy(ABC):
    """From scores to (pi, offset, weight).

    Attributes
    ----------
    name, version:
        written beside every kept row; the version changes when the formula does.
    reads:
        which parts of a :class:`Row` enter beside the label: ``p``, ``norm``, ``score`` (the one that the arm
        names). Nothing else is asked of table ``scores``.
    signed:
        whether the score may be negative.
    options:
        settings of the formula, ``weighting.options``.
    fallback:
        name of the policy that takes over where :meth:`unfit` says so.
    biased:
        whether the fit's target differs from the full data's even in the limit.
    corrects_by:
        what makes the subset stand for all rows.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    reads: ClassVar[tuple[str, ...]]
    signed: ClassVar[bool] = False
    options: ClassVar[type[Settings]] = Settings
    fallback: ClassVar[str | None] = None
    biased: ClassVar[bool]
    corrects_by: ClassVar[Literal["offset", "weight", "none"]]

    def unfit(self, pilot: Row, budget: float) -> str:
        """Why ``fallback`` is taken for these rows instead; an empty text where this policy will do."""
        return ""

    @abstractmethod
    def solve(self, pilot: Row, budget: float, options: Any) -> dict[str, float]:
        """Constants of the formula from a bounded uniform sample (float64 arrays), such that the expected
        share of kept rows is ``budget``."""

    @abstractmethod
    def decide(self, row: Row, constants: Mapping[str, float], ops: Any) -> Decision:
        """The formula, elementwise; arrays and Spark columns alike."""


P = TypeVar("P", bound=WeightPolicy)

POLICIES: Registry[WeightPolicy] = Registry(
    "policy", "policies", setting="weighting.policy", home="sie_spark.weighting.policies"
)


def register_policy(cls: type[P]) -> type[P]:
    """Make a policy available as ``weighting.policy: <name>``."""
    instance = cls()
    POLICIES.register(instance.name, instance)
    return cls
