"""The kept rows of every arm as one projection over ``scores``: no join, no shuffle of rows that are dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sie_spark.platform.config.arms import CANDIDATE
from sie_spark.platform.draws import Draw, uniform_column
from sie_spark.weighting.arms import Arm
from sie_spark.weighting.terms import SPARK

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame


def purpose(arm: str) -> str:
    """Of the draw that keeps an arm's rows: arms are drawn independently of each other."""
    return "keep" if arm == CANDIDATE else f"keep_{arm}"


def kept_rows(scores: DataFrame, arms: list[Arm], *, seed: int, pilot: Draw) -> DataFrame:
    """Sample columns of the kept rows with arm, pi, offset, weight, seed, policy and policy_version.

    Parameters
    ----------
    pilot:
        the rows that the pilot was fitted on.
    """
    from pyspark.sql import functions as F

    added = {"p", "scorer_versions"}
    samples = [name for name in scores.columns if name not in added and not name.startswith("score_")]
    chosen = F.filter(F.array(*(_arm(arm, seed, pilot) for arm in arms)), lambda arm: arm["keep"])
    return scores.select(*samples, F.inline(chosen)).drop("keep")


def summary_columns(arms: list[str]) -> list[Column]:
    """Aggregates over kept rows, by arm."""
    from pyspark.sql import functions as F

    columns = []
    for arm in arms:
        here = F.col("arm") == arm
        for word, value in (
            ("kept", F.lit(1)),
            ("weight", F.col("weight").cast("double")),
            ("squares", F.col("weight").cast("double") ** 2),
            ("positive", F.col("label").cast("double")),
            ("inverse", 1 / F.col("pi")),
        ):
            columns.append(F.sum(F.when(here, value)).alias(f"{arm}:{word}"))
    return columns


def _arm(arm: Arm, seed: int, pilot: Draw) -> Column:
    from pyspark.sql import functions as F

    row = arm.row(F.col("label").cast("double"), F.col, SPARK)
    seen = pilot.column(F.col("sample_id"))
    decision = arm.decide(row, F.col("sampling_rate").cast("double"), SPARK, seen=seen)
    draw = uniform_column(F.col("sample_id"), seed=seed, purpose=purpose(arm.name))
    return F.struct(
        F.lit(arm.name).alias("arm"),
        decision.pi.alias("pi"),
        decision.offset.cast("float").alias("offset"),
        decision.weight.cast("float").alias("weight"),
        F.lit(seed).alias("seed"),
        F.lit(arm.policy.name).alias("policy"),
        F.lit(arm.policy_version).alias("policy_version"),
        (draw < decision.pi).alias("keep"),
    )
