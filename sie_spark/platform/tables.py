"""How the clickstream's tables are made and added to: layout, constraints, insert-only MERGE.

SQL only, so that Spark Connect, which has no DeltaTable, does the same.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, timedelta
from typing import TYPE_CHECKING

from sie_spark.platform.catalog import (
    RETENTION,
    TABLES,
    Catalog,
    metadata,
    retried,
    statistics,
    union_of_dates,
)

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType

USER_METADATA = "spark.databricks.delta.commitInfo.userMetadata"
EXPRESSIONS = {
    # wrong values are for the rules to judge, not for Spark to fail on
    "spark.sql.ansi.enabled": "false",
    "spark.sql.session.timeZone": "UTC",
    # a value that does not fit a time pattern is no time, also where Spark 2 would have taken it
    "spark.sql.legacy.timeParserPolicy": "CORRECTED",
    # Spark has no nanoseconds, which pandas writes; typed.py makes times of the numbers
    "spark.sql.legacy.parquet.nanosAsLong": "true",
    # a filter over many derived columns makes the optimiser infer constraints for minutes (it is exponential)
    "spark.sql.constraintPropagation.enabled": "false",
}
CONSTRAINTS: dict[str, dict[str, str]] = {
    "events": {
        "has_id": "event_id IS NOT NULL AND event_date IS NOT NULL",
        "has_type": "event_type IS NOT NULL",
        "rate": "sampling_rate > 0 AND sampling_rate <= 1",
    },
    "quarantine": {"has_reason": "record_id IS NOT NULL AND size(reasons) > 0"},
    "impressions": {
        "has_id": "impression_id IS NOT NULL AND event_date IS NOT NULL",
        "click": "click IS NULL OR click IN (0, 1)",
        "conversion": "conversion IS NULL OR conversion IN (0, 1)",
        "rate": "sampling_rate > 0 AND sampling_rate <= 1",
    },
}
# a local VACUUM would list a handful of folders with thousands of tasks, for half a minute
LOCAL = {"spark.sql.sources.parallelPartitionDiscovery.parallelism": "4"}
# a VACUUM without the retention that time travel needs
NOW = {"spark.databricks.delta.retentionDurationCheck.enabled": "false"}
MANY_DATES = 400


@contextmanager
def session_settings(spark: SparkSession, settings: Mapping[str, str]) -> Iterator[None]:
    """Set session settings for a while; those the platform refuses are passed over."""
    from pyspark.errors import PySparkException

    before: dict[str, str | None] = {}
    for key, value in settings.items():
        try:
            previous = spark.conf.get(key, None)
            spark.conf.set(key, value)
        except PySparkException:
            continue
        before[key] = previous
    try:
        yield
    finally:
        for key, previous in before.items():
            if previous is None:
                spark.conf.unset(key)
            else:
                spark.conf.set(key, previous)


@contextmanager
def commit_metadata(spark: SparkSession, text: str) -> Iterator[None]:
    """Every commit inside carries ``text`` as its userMetadata."""
    with session_settings(spark, {USER_METADATA: text}):
        yield


def ensure(catalog: Catalog, name: str, schema: StructType, *, layout: str = "partition") -> bool:
    """Make a table with its layout, retention and CHECK constraints unless it exists; whether it was made."""
    if catalog.exists(name):
        return False
    columns = ", ".join(f"`{field.name}` {field.dataType.simpleString()}" for field in schema)
    clustered = [] if layout == "partition" else ["event_date"]
    placed = "CLUSTER BY (event_date)" if clustered else "PARTITIONED BY (event_date)"
    checks = {f"delta.constraints.{key}": test for key, test in CONSTRAINTS.get(name, {}).items()}
    asked = {**RETENTION, **statistics(schema.names, clustered=clustered), **checks}
    properties = ", ".join(f"'{key}' = '{value}'" for key, value in asked.items())
    with commit_metadata(catalog.spark, metadata(job=TABLES[name].written_by, fingerprint="")):
        catalog.spark.sql(
            f"CREATE TABLE IF NOT EXISTS {catalog.sql_name(name)} ({columns}) USING delta {placed} "
            f"TBLPROPERTIES ({properties})"
        )
    return True


def cluster_again(catalog: Catalog, name: str) -> None:
    """Give a table of layout ``cluster`` its clustering back where a write took it."""
    detail = (
        catalog.spark.sql(f"DESCRIBE DETAIL {catalog.sql_name(name)}").select("clusteringColumns").first()
    )
    if detail is None or not detail[0]:
        catalog.spark.sql(f"ALTER TABLE {catalog.sql_name(name)} CLUSTER BY (event_date)")


def insert_new(
    catalog: Catalog, source: DataFrame, name: str, *, key: str, dates: Sequence[str], days: int, stamp: str
) -> int:
    """Insert the rows of ``source`` whose key is not in the table within so many days; returns how many.

    ``source`` holds each key once within these days; ``dates`` are all that can hold one of them, and being
    literal prune what the MERGE reads. A commit of another job in between is retried, so two overlapping runs
    insert a row once.
    """
    spark = catalog.spark
    view = f"_sie_new_{name}_{uuid.uuid4().hex}"
    source.createOrReplaceTempView(view)
    columns = ", ".join(f"`{column}`" for column in source.columns)
    values = ", ".join(f"s.`{column}`" for column in source.columns)
    statement = (
        f"MERGE WITH SCHEMA EVOLUTION INTO {catalog.sql_name(name)} t USING {view} s "
        f"ON {dates_in(dates, 't.event_date')} AND t.`{key}` = s.`{key}` AND {within_days(days)} "
        f"WHEN NOT MATCHED THEN INSERT ({columns}) VALUES ({values})"
    )
    settings = {"spark.databricks.delta.merge.repartitionBeforeWrite.enabled": "false"}
    try:
        with commit_metadata(spark, stamp), session_settings(spark, settings):
            row = retried(lambda: spark.sql(statement).first())
    finally:
        spark.catalog.dropTempView(view)
    return int(row["num_inserted_rows"]) if row is not None else 0


def replace_rows(
    catalog: Catalog,
    frame: DataFrame,
    name: str,
    *,
    layout: str,
    dates: Sequence[str] | None,
    stamp: str,
) -> None:
    """Replace the rows of these dates in one commit; None: all rows, and the columns with them."""
    ensure(catalog, name, frame.schema, layout=layout)
    writer = frame.write.format("delta").mode("overwrite")
    if dates is not None:
        writer = writer.option("replaceWhere", dates_in(dates))
    else:
        writer = writer.option("overwriteSchema", "true")
        writer = writer.partitionBy("event_date") if layout == "partition" else writer
    with commit_metadata(catalog.spark, stamp):
        retried(lambda: writer.save(catalog.path(name)))
        if dates is None and layout == "cluster":  # an overwritten schema has no clustering
            cluster_again(catalog, name)


def vacuum_now(catalog: Catalog, table: str) -> None:
    """Remove the files that hold no current row, without the retention that time travel needs."""
    settings = {**NOW, **(LOCAL if catalog.root.is_local else {})}
    with session_settings(catalog.spark, settings):
        catalog.spark.sql(f"VACUUM {table} RETAIN 0 HOURS").limit(1).count()


def dates_in(dates: Iterable[str], column: str = "event_date") -> str:
    """A literal predicate over dates: a list, or bounds where the list would be long."""
    ordered = sorted(set(dates))
    if not ordered:
        return "false"
    if len(ordered) > MANY_DATES:
        return f"{column} >= DATE'{ordered[0]}' AND {column} <= DATE'{ordered[-1]}'"
    return union_of_dates(ordered, column=column)


def within_days(days: int) -> str:
    """A predicate: the dates of ``t`` and ``s`` lie no further apart."""
    return f"abs(datediff(t.event_date, s.event_date)) <= {days}" if days else "t.event_date = s.event_date"


def around(dates: Iterable[str], days: int) -> list[str]:
    """The dates with so many days before and after each of them."""
    steps = [timedelta(days=step) for step in range(-days, days + 1)]
    return sorted({(date.fromisoformat(day) + step).isoformat() for day in dates for step in steps})


def column_types(catalog: Catalog, name: str) -> dict[str, str]:
    """Column types in words; empty where the table does not exist."""
    if not catalog.exists(name):
        return {}
    return types_of(catalog.read(name))


def types_of(frame: DataFrame) -> dict[str, str]:
    """Column types in words."""
    return {field.name: field.dataType.simpleString() for field in frame.schema}
