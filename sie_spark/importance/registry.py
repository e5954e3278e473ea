"""The list of scorers: one file a scorer, found without naming it anywhere else."""

from __future__ import annotations

from typing import TypeVar

from sie_spark.importance.contracts import Scorer
from sie_spark.platform.registry import Registry

S = TypeVar("S", bound=Scorer)

SCORERS: Registry[Scorer] = Registry(
    "scorer", "scorers", setting="importance.scorers", home="sie_spark.importance.scorers"
)


def register_scorer(cls: type[S]) -> type[S]:
    """Make a scorer available as ``importance.scorers: [<name>]``."""
    instance = cls()
    SCORERS.register(instance.name, instance)
    return cls
