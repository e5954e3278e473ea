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
    assumption, citation:
        under which the subset's fit converges to that of all rows, and where that is shown.
    price:
        of a biased policy: what it was measured to cost.
    reads:
        which parts of a :class:`Row` enter beside the label and the score: ``p``, or nothing. Nothing else is asked
        of table ``scores``.
    takes:
        which score an arm may name: any, one that does not depend on the label, or none (it is not looked at).
    signed:
        whether the score may be negative.
    use:
        what the score is used for: a scorer says which uses it is good for, and another one is warned of.
    options:
        settings of the formula, ``weighting.options``.
    fallback:
        name of the policy that takes over where :meth:`unfit` says so.
    biased:
        whether the fit's target differs from the full data's even in the limit.
    corrects_by:
        what makes the subset stand for all rows.
    by_request:
        whether whole requests may be drawn: a row-level offset does not correct for that, a weight does.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    assumption: ClassVar[str]
    citation: ClassVar[str]
    price: ClassVar[str] = ""
    reads: ClassVar[tuple[str, ...]]
    takes: ClassVar[Literal["any", "label-free", "none"]] = "none"
    signed: ClassVar[bool] = False
    use: ClassVar[Literal["subsample", "weight"]] = "subsample"
    options: ClassVar[type[Settings]] = Settings
    fallback: ClassVar[str | None] = None
    biased: ClassVar[bool] = False
    corrects_by: ClassVar[Literal["offset", "weight", "none"]]
    by_request: ClassVar[bool] = False

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
