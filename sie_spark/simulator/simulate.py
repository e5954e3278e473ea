"""A clickstream whose truth is known: raw JSON lines as a log would hold them, and the truth apart from them.

Sessions, queries, ranked lists with position bias, clicks, late purchases, drift, and switches for bots,
fake and missed clicks, duplicates and broken records. Expressions only: no data passes through Python.
"""

from __future__ import annotations

from pyspark.sql import Column, Observation
from pyspark.sql import functions as F

from sie_spark.platform.context import Context
from sie_spark.platform.result import StageResult
from sie_spark.simulator.records import lines, outcomes, records, truth
from sie_spark.simulator.world import impressions, solve_intercept

JOB = "simulate"

CODE = ("sie_spark.simulator",)
SIMULATED = "The clickstream is simulated: it shows that the path works, not what your data would give."


def run(ctx: Context) -> StageResult:
    """Write ``root/raw/day=.../*.json[.gz]`` and table ``truth``; does nothing when both are up to date.

    Raises
    ------
    ConfigError
        for settings that contradict each other (a list longer than the shop, a rate out of reach).
    """
    settings = ctx.config.simulator
    fingerprint = ctx.fingerprint(JOB, "simulator", code=CODE)
    details = ctx.finished(JOB, fingerprint, table="truth")
    if details is not None:
        return StageResult(
            outputs={"truth": ctx.catalog.ref("truth")},
            metrics=details.get("metrics", {}),
            details=details,
            skipped=True,
        )
    intercept = solve_intercept(ctx.spark, settings)
    happened = outcomes(impressions(ctx.spark, settings), settings, intercept)

    counted = Observation("raw")
    logged = records(happened, settings).observe(
        counted,
        F.sum("copies").alias("records"),
        *[_count(F.col("event_type") == kind, f"{kind}s") for kind in ("impression", "click", "purchase")],
        _count(F.col("copies") > 1, "duplicates"),
        _count(F.col("broken").isNotNull(), "malformed"),
    )
    writer = lines(logged, settings).write.mode("overwrite").partitionBy("day")
    raw = ctx.root.path("raw")
    writer.option("compression", settings.compression).text(raw)

    # the truth comes last: its commit says that the raw records are whole
    seen = Observation("truth")
    flags = ("is_bot", "is_fake", "is_missed", "true_click", "observed_click", "purchase")
    known = truth(happened, settings).observe(
        seen,
        F.avg("click_probability").alias("mean_click_probability"),
        *[_count(F.col(flag), flag) for flag in flags],
    )
    ref = ctx.catalog.replace(known, "truth", fingerprint=fingerprint, job=JOB)
    totals, facts = _plain(counted), _plain(seen)
    metrics = {"impressions": totals["impressions"], "records": totals["records"]}
    details = {
        "raw": raw,
        "records": totals,
        "truth": facts,
        "intercept": intercept,
        "metrics": metrics,
        "cautions": [SIMULATED],
    }
    ctx.save_details(JOB, details, fingerprint=fingerprint)
    ctx.progress.say(
        f"simulated {totals['impressions']:,.0f} impressions, {totals['clicks']:,.0f} clicks,"
        f" {totals['purchases']:,.0f} purchases over {settings.days} days"
    )
    return StageResult(outputs={"truth": ref}, metrics=metrics, details=details)


def _count(condition: Column, name: str) -> Column:
    return F.sum(condition.cast("bigint")).alias(name)


def _plain(observation: Observation) -> dict[str, float]:
    return {name: float(value or 0) for name, value in observation.get.items()}
