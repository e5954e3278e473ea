"""The arms of an experiment: models that are fitted on different rows and judged on the same ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from sie_spark.platform.config.base import Settings
from sie_spark.platform.config.budget import Budget
from sie_spark.platform.errors import ConfigError

# the three that have a part in the verdict: the candidate is judged against the other two
CANDIDATE, FULL, BASELINE = "weighted", "full", "random"

# plain models that are fitted beside the arms, to be compared with; no arm has their names
YARDSTICKS = ("logistic_regression", "boosted_trees")
CONSTANT = "constant"


class Arm(Settings):
    """One arm: which training rows its model sees; what is not said here, ``weighting`` says."""

    title: str | None = Field(None, description="what people call it, in table and page; default: its name")
    rows: Literal["all", "kept"] = Field(
        "kept", description="all: every training row; kept: those that the policy keeps, with its correction"
    )
    policy: str | None = Field(None, description="default: weighting.policy")
    score: str | None = Field(None, description="default: weighting.score")
    budget: Budget | None = Field(None, description="default: weighting.budget")
    options: dict[str, Any] | None = Field(
        None, description="of the policy; default: weighting.options, where the policy is that one"
    )
    start: str | None = Field(
        None,
        description="weights to start from: pilot, reference, mlflow:URI, or the path of a model.pt; null: fresh ones",
    )
    freeze: list[str] = Field(
        [], description="parameters that are not fitted, by the beginning of their names; with start"
    )
    as_many_as: str | None = Field(
        None,
        description="another arm: as many rows are kept as that one expects to keep, whatever the budget",
    )


DEFAULTS: dict[str, dict[str, Any]] = {
    FULL: {"title": "all rows", "rows": "all"},
    CANDIDATE: {"title": "weighted subset"},
    BASELINE: {"title": "random rows", "policy": "random", "as_many_as": CANDIDATE},
}


def over_defaults(given: Any) -> Any:
    """The default arms with what a user says of them; null switches an arm off, a new name adds one.

    Raises
    ------
    ConfigError
        for the form of earlier versions, ``arms.NAME: false``.
    """
    if not isinstance(given, Mapping):
        return given
    arms: dict[str, Any] = {name: dict(settings) for name, settings in DEFAULTS.items()}
    for name, settings in given.items():
        if isinstance(settings, bool):
            raise ConfigError(
                f"arms.{name}: {str(settings).lower()} is the form of earlier versions; an arm is a section now",
                remedy=f"leave out arms.{name}" if settings else f"write arms.{name}=null to switch it off",
            )
        if settings is None:
            arms.pop(name, None)
        elif isinstance(settings, Mapping):
            arms[name] = {**arms.get(name, {}), **settings}
        else:
            arms[name] = settings
    return arms


def check_arms(arms: Mapping[str, Arm]) -> None:
    """Raise :class:`ConfigError` for arms that lean on an arm that keeps no rows, or on each other."""
    if all(arm.rows == "all" for arm in arms.values()):
        raise ConfigError(
            "arms: none keeps a part of the rows, so there is nothing to weigh",
            remedy=f"leave arms.{CANDIDATE} in, or add an arm with rows: kept",
        )
    for name, arm in arms.items():
        if not name.isidentifier():
            raise ConfigError(
                f"arms.{name}: a name is a word", remedy="use letters, digits and _, beginning with a letter"
            )
        if name in (*YARDSTICKS, CONSTANT, "pilot", "reference"):
            raise ConfigError(
                f"arms.{name}: that is the name of a model that every run has",
                remedy="give the arm another name",
            )
        if arm.freeze and arm.start is None:
            raise ConfigError(
                f"arms.{name}.freeze leaves parameters at random values, because arms.{name}.start is not set",
                remedy="say which model to start from: pilot, reference or a path",
            )
        if arm.as_many_as is None:
            continue
        other = arms.get(arm.as_many_as)
        if other is None or other.rows == "all" or other.as_many_as is not None:
            raise ConfigError(
                f"arms.{name}.as_many_as: '{arm.as_many_as}' is no arm that keeps rows by a budget of its own",
                remedy=f"name one of those, or give arms.{name} a budget and set as_many_as to null",
            )
