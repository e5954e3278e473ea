"""What a weighting policy is, and the list of them: one file a policy."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

from sie_spark.platform.config import Weighting
from sie_spark.platform.errors import ConfigError
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
POLICIES: dict[str, WeightPolicy] = {}


def register_policy(cls: type[P]) -> type[P]:
    """Make a policy available as ``weighting.policy: <name>``."""
    instance = cls()
    POLICIES[instance.name] = instance
    return cls


def policy(name: str) -> WeightPolicy:
    """A policy by name.

    Raises
    ------
    ConfigError
        for a name that is not registered.
    """
    load_all()
    if name not in POLICIES:
        near = difflib.get_close_matches(name, POLICIES, n=1, cutoff=0.4)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise ConfigError(
            f"weighting.policy: unknown policy '{name}'",
            remedy=f"{hint}policies: {', '.join(sorted(POLICIES))}",
        )
    return POLICIES[name]


def load_all() -> None:
    """Import every policy that comes with the package."""
    import sie_spark.weighting.policies as package

    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
