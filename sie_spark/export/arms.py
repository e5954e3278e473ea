"""What the training set says of its arms, and whether it is still that of the samples at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sie_spark.platform.arms import titles
from sie_spark.platform.config.names import key_column
from sie_spark.platform.context import Context
from sie_spark.platform.errors import ConfigError, DataError, StageOrderError
from sie_spark.weighting.registry import POLICIES

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

UNIFORM = "random"  # the policy whose rows every other arm has to beat


@dataclass(frozen=True)
class KeptArm:
    """An arm of the training set.

    Parameters
    ----------
    rows:
        part -> kept rows.
    biased:
        whether its weights emphasise rows and correct for nothing.
    rate_in_weight:
        whether its own weight undoes the log's sampling rate.
    """

    name: str
    title: str
    policy: str
    version: str
    rows: Mapping[str, int]
    biased: bool
    rate_in_weight: bool

    @property
    def total(self) -> int:
        """Kept rows of all parts."""
        return sum(self.rows.values())

    @property
    def uniform(self) -> bool:
        """Whether its rows are random ones."""
        return self.policy == UNIFORM

    def describe(self) -> dict[str, Any]:
        """Plain data for export.json."""
        return {
            "name": self.name,
            "title": self.title,
            "policy": self.policy,
            "policy_version": self.version,
            "biased": self.biased,
            "rows": dict(self.rows),
        }


def kept_arms(ctx: Context, rows: DataFrame, encoded: str) -> dict[str, KeptArm]:
    """The arms of ``rows`` (``training_set``), in the order in which people see them.

    Raises
    ------
    StageOrderError
        where stage weigh did not come to its end, or weighed samples of another encoder.
    DataError
        where no arm has rows there.
    """
    from pyspark.sql import functions as F

    told = ctx.load_details("weigh")
    # a row for every arm, policy and part
    counted = rows.groupBy("arm", "policy", "policy_version", "split").agg(F.count(F.lit(1))).collect()
    # of an arm that keeps all rows nothing is written
    own = {name: one for name, one in told.get("arms", {}).items() if not one.get("keeps_all")}
    known = {name: one["policy_version"] for name, one in own.items()}
    if known != {arm: version for arm, _, version, _, _ in counted}:
        raise StageOrderError(
            f"training_set under {ctx.root.uri} is not what 'sie weigh' last told of: it was cut short",
            remedy="run 'sie weigh' again",
        )
    if told.get("encoder") != encoded:
        raise StageOrderError(
            f"training_set under {ctx.root.uri} was made from samples of encoder {told.get('encoder')}, and now they"
            f" are of {encoded}",
            remedy="run 'sie train', 'sie score' and 'sie weigh' again, or 'sie run' for all stages",
        )
    if not known:
        raise DataError(
            f"training_set under {ctx.root.uri} has no rows: every arm keeps all of them",
            remedy="lower weighting.budget, or give an arm a budget of its own",
        )
    called = titles(ctx.config.arms)
    order = sorted(
        known, key=lambda name: (list(called).index(name) if name in called else len(called), name)
    )
    return {name: _arm(name, called.get(name, name), own[name], counted) for name in order}


def _arm(name: str, title: str, told: Mapping[str, Any], counted: Sequence[Any]) -> KeptArm:
    own = [row for row in counted if row[0] == name]
    policy = POLICIES[own[0][1]]
    return KeptArm(
        name=name,
        title=title,
        policy=policy.name,
        version=own[0][2],
        rows={part: int(rows) for _, _, _, part, rows in sorted(own, key=lambda row: row[3])},
        biased=policy.biased,
        rate_in_weight=bool(told["weight_by_rate"]),
    )


def check_arm(arm: str | None, arms: Mapping[str, KeptArm]) -> None:
    """Raise where the training set has no such arm."""
    if arm is not None and arm not in arms:
        raise ConfigError(
            f"--arm {arm}: the training set has no rows of that arm, as of one that keeps all rows",
            remedy=f"choose one of {', '.join(arms)}, or add it to arms, with a budget, and run 'sie weigh'",
        )


def check_keys(keys: Sequence[str], **tables: DataFrame) -> None:
    """Raise where a table was made before a column of ``report.key`` was asked for."""
    for table, rows in tables.items():
        lacking = [name for name in keys if key_column(name) not in rows.columns]
        if lacking:
            raise StageOrderError(
                f"report.key names {', '.join(lacking)}, which the rows of table '{table}' do not carry yet",
                remedy="run 'sie run' with the same report.key, from 'encode' on everything is made again; or leave it out",
            )
