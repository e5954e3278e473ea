"""The kept rows of every arm as one projection over ``scores``: no join, no shuffle of rows that are dropped."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sie_spark.platform.config.arms import CANDIDATE
from sie_spark.platform.draws import Draw, uniform_column
from sie_spark.platform.errors import DataError
from sie_spark.weighting.arms import BY_REQUEST, Arm, Plan
from sie_spark.weighting.solving_sample import RARITY
from sie_spark.weighting.terms import SPARK, Row, surprise

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


def by_request(scores: DataFrame, plans: list[Plan]) -> tuple[DataFrame, list[Plan]]:
    """Scores of whole requests beside each of their rows, and the plans that draw by them: one shuffle by request.

    A request of n rows with scores s counts ``sum s / sqrt(n)``: the gradient of a list is at most the sum of its
    rows' gradients, and under a budget in rows the best inclusion probability goes with the size over the root of the
    cost (Neyman's allocation for unequal costs). The floor of its rarest id is the whole request's.

    Raises
    ------
    DataError
        where a row belongs to no request.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    if "request_id" not in scores.columns or not scores.where("request_id IS NULL").isEmpty():
        raise DataError(
            "weighting.unit=request: some rows belong to no shown list",
            remedy="give dataset.impressions.list_id, or a column list_id, and run 'sie impressions' again; or set"
            " weighting.unit=row",
        )
    request = Window.partitionBy("split", "event_date", "request_id")
    changed = []
    for plan in plans:
        if plan.policy.takes == "any":
            label, p = F.col("label"), F.col("p")
            score = F.col(f"score_{plan.score}") if plan.score else surprise(Row(label, p), SPARK)
            name = f"{BY_REQUEST}{plan.score or 'error'}"
            whole = F.sum(score).over(request) / F.sqrt(F.count(F.lit(1)).over(request))
            scores, plan = scores.withColumn(f"score_{name}", whole), replace(plan, score=name)  # noqa: PLW2901
        changed.append(plan)
    if any(plan.id_floor for plan in plans):
        rarest = F.max(f"score_{RARITY}").over(request)
        scores = scores.withColumn(f"score_{RARITY}", rarest)
    return scores, changed


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
    unit = F.col("request_id" if arm.unit == "request" else "sample_id")
    draw = uniform_column(unit, seed=seed, purpose=purpose(arm.name))
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
