"""Smoothed click rates of users, items, queries, as of the day before the impression.

rate = (clicks + strength * prior) / (shown + strength), where prior is the overall rate; all three are
counts of the days before, a click counted on the day it came. On the first day there is nothing to know: rate is
null and count is 0.
"""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from sie_spark.impressions.attribution import click_delay
from sie_spark.platform.config.names import rated

DAY = "event_date"
ALL = ""  # the group of all rows, which gives the prior


def daily_counts(rows: DataFrame, columns: Sequence[str]) -> DataFrame:
    """Shown and clicked per column, value and day, all columns in one pass.

    Returns columns which string, value string, event_date, known_on date, shown bigint, clicked bigint: what
    the impressions of event_date say of known_on, which is that day, or a later one for clicks that came then.
    Delays are kept in whole seconds, so that a click within a second of midnight is taken to have come after it.
    """
    latest = (click_delay(rows.columns) + 1) * F.lit(1_000_000) - 1
    clicked_on = F.to_date(F.timestamp_micros(F.unix_micros("event_ts") + latest))
    clicked = F.coalesce(F.col("click") == 1, F.lit(False))
    late = F.when(clicked & (clicked_on > F.col(DAY)), clicked_on)
    groups = [(ALL, F.lit(""))] + [(name, F.col(name).cast("string")) for name in columns]
    pairs = F.array(*[F.struct(F.lit(name).alias("which"), value.alias("value")) for name, value in groups])
    flat = rows.select(DAY, clicked.alias("clicked"), late.alias("late"), F.explode(pairs).alias("group"))
    grouped = flat.where("group.value IS NOT NULL").groupBy(
        F.col("group.which").alias("which"), F.col("group.value").alias("value"), DAY, "late"
    )
    counted = grouped.agg(F.count("*").alias("n"), F.count(F.when(F.col("clicked"), 1)).alias("k"))
    none = F.lit(0).cast("bigint")
    then = F.when(F.col("late").isNull(), F.col("k")).otherwise(none)
    parts = F.array(
        F.struct(F.col(DAY).alias("known_on"), F.col("n").alias("shown"), then.alias("clicked")),
        F.struct(F.col("late").alias("known_on"), none.alias("shown"), F.col("k").alias("clicked")),
    )
    known = counted.select("which", "value", DAY, F.inline(parts)).where("known_on IS NOT NULL")
    return known.groupBy("which", "value", DAY, "known_on").agg(
        F.sum("shown").alias("shown"), F.sum("clicked").alias("clicked")
    )


def rate_table(counts: DataFrame, strength: float) -> DataFrame:
    """Rates as of the day before, per column, value and day: columns which, value, day, rate, count."""
    by_day = counts.groupBy("which", "value", F.col("known_on").alias("day")).agg(
        F.sum("shown").alias("shown"), F.sum("clicked").alias("clicked")
    )
    before = Window.partitionBy("which", "value").orderBy("day").rowsBetween(Window.unboundedPreceding, -1)
    summed = by_day.select(
        "which",
        "value",
        "day",
        F.coalesce(F.sum("shown").over(before), F.lit(0)).alias("n"),
        F.coalesce(F.sum("clicked").over(before), F.lit(0)).alias("k"),
    )
    prior = summed.where(F.col("which") == ALL).select(
        F.col("day").alias("_day"), F.when(F.col("n") > 0, F.col("k") / F.col("n")).alias("prior")
    )
    joined = summed.where(F.col("which") != ALL).join(
        F.broadcast(prior), F.col("day") == F.col("_day"), "left"
    )
    weight = F.lit(float(strength))
    smoothed = (F.col("k") + weight * F.col("prior")) / (F.col("n") + weight)
    return joined.select("which", "value", "day", smoothed.alias("rate"), F.col("n").alias("count"))


def with_rates(rows: DataFrame, table: DataFrame, columns: Sequence[str]) -> DataFrame:
    """Add ``rate_<column>`` double and ``count_<column>`` bigint from :func:`rate_table`."""
    for column in columns:
        rate, count = rated(column)
        known = table.where(F.col("which") == column).select(
            F.col("value").alias("_value"),
            F.col("day").alias("_day"),
            F.col("rate").alias(rate),
            F.col("count").alias("_count"),
        )
        on = (rows[column].cast("string") == known["_value"]) & (rows[DAY] == known["_day"])
        rows = rows.join(known, on, "left").drop("_value", "_day")
        rows = rows.withColumn(count, F.coalesce("_count", F.lit(0))).drop("_count")
    return rows
