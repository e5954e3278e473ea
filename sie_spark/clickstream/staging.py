"""A batch is written once, tagged and counted, before anything of it is visible.

The staged copy lies under ``root/_staging/<fingerprint>``. Killed before its counts are written, it is made
again; killed after, the next run goes on from it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from pyspark.sql import DataFrame, Observation
from pyspark.sql import functions as F

from sie_spark.clickstream.canonical import Canonical
from sie_spark.clickstream.times import UNKNOWN_DATE
from sie_spark.platform.catalog import Catalog
from sie_spark.platform.errors import RowIdentityError
from sie_spark.platform.root import Root, read_bytes

if TYPE_CHECKING:
    from sie_spark.platform.context import Context

FOLDER = "_staging"
ROW = "_row"


@dataclass(frozen=True)
class Counts:
    """What one pass over the source saw."""

    read: int
    rejected: int
    outside: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    warnings: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Fate:
    """What became of the rows of a batch: read = kept + quarantined + duplicate."""

    read: int
    kept: int
    quarantined: int
    duplicate: int


def in_range(frame: DataFrame, first: str | None, last: str | None) -> tuple[DataFrame, Any]:
    """Rows of the asked dates, and the test for rows outside; rejected rows without a date always stay."""
    test = F.lit(True)
    if first:
        test = test & (F.col("event_date") >= F.lit(first).cast("date"))
    if last:
        test = test & (F.col("event_date") <= F.lit(last).cast("date"))
    stays = test | (F.col("event_date") == F.lit(UNKNOWN_DATE).cast("date"))
    return frame.where(stays), ~stays


def stage(ctx: Context, canonical: Canonical, fingerprint: str) -> Counts:
    """Write a batch's tagged rows in one pass and count them in the same pass."""
    run = ctx.config.run
    before, after = Observation(f"read-{fingerprint}"), Observation(f"staged-{fingerprint}")
    _, outside = in_range(canonical.frame, run.date_from, run.date_to)
    frame = canonical.frame.observe(before, F.count("*").alias("read"), _sum(outside).alias("outside"))
    frame, _ = in_range(frame, run.date_from, run.date_to)
    rejected = F.size("reasons") > 0
    measures = [_sum(rejected).alias("rejected"), F.count("*").alias("staged")]
    for index, reason in enumerate(canonical.reasons):
        measures.append(_sum(F.array_contains("reasons", reason)).alias(f"r{index}"))
    measures += [_sum(F.col(flag)).alias(flag) for flag in canonical.warnings]
    frame = frame.observe(after, *measures).drop(*canonical.warnings)
    frame = frame.withColumn(ROW, F.monotonically_increasing_id())
    path = ctx.root.path(FOLDER, fingerprint)
    frame.write.format("delta").mode("overwrite").option("overwriteSchema", "true").save(path)
    saw, wrote = before.get, after.get
    outside_rows = int(saw["outside"] or 0)
    read = int(saw["read"]) - outside_rows
    counts = Counts(
        read,
        int(wrote["rejected"] or 0),
        outside_rows,
        {name: n for i, name in enumerate(canonical.reasons) if (n := int(wrote[f"r{i}"] or 0))},
        {name: n for flag, name in canonical.warnings.items() if (n := int(wrote[flag] or 0))},
    )
    if int(wrote["staged"]) != read:
        raise _identity(counts, f"{int(wrote['staged'])} rows were staged")
    save_counts(ctx.root, fingerprint, counts)
    return counts


def save_counts(root: Root, fingerprint: str, counts: Counts) -> None:
    """Written after the staged rows: says that they are whole."""
    root.write_bytes(json.dumps(asdict(counts), sort_keys=True).encode(), FOLDER, f"{fingerprint}.json")


def load_counts(root: Root, fingerprint: str) -> Counts | None:
    """The counts of a staged batch that is whole, or None."""
    if not root.exists(FOLDER, f"{fingerprint}.json"):
        return None
    return Counts(**json.loads(read_bytes(root.path(FOLDER, f"{fingerprint}.json"))))


def staged(ctx: Context, fingerprint: str) -> DataFrame:
    """The staged rows."""
    return ctx.spark.read.format("delta").load(ctx.root.path(FOLDER, fingerprint))


def clear(root: Root, fingerprint: str) -> None:
    """Remove a staged batch; the counts go first, so that half a batch is never taken for a whole one."""
    for name in (f"{fingerprint}.json", fingerprint, f"{fingerprint}-repeated"):
        root.remove(FOLDER, name)


@dataclass(frozen=True)
class Batch:
    """A staged batch, each key once: rows for events and for quarantine, and what is known of them."""

    accepted: DataFrame
    rejected: DataFrame
    distinct_accepted: int
    distinct_rejected: int
    accepted_dates: list[str]
    rejected_dates: list[str]


def distinct_rows(ctx: Context, fingerprint: str, counts: Counts) -> Batch:
    """Choose one row a key; the identity is checked here, before anything is visible.

    Only keys and row numbers are shuffled; repeated keys, few in a healthy log, go into a small table that
    the merge leaves out by.

    Raises
    ------
    RowIdentityError
        when the staged rows are not the rows that were read.
    """
    rows = staged(ctx, fingerprint).withColumn("bad", F.size("reasons") > 0)
    first = F.min(F.struct(F.col(ROW).alias("row"), "event_date")).alias("first")
    grouped = rows.groupBy("bad", "event_id").agg(F.count("*").alias("n"), first)
    totals = grouped.groupBy("bad", F.col("first.event_date").cast("string")).agg(F.sum("n"), F.count("*"))
    days: dict[bool, list[str]] = {True: [], False: []}
    total, distinct = {True: 0, False: 0}, {True: 0, False: 0}
    for bad, day, all_rows, different in totals.collect():  # a row a date
        days[bad].append(day)
        total[bad] += int(all_rows)
        distinct[bad] += int(different)
    if sum(total.values()) != counts.read or total[True] != counts.rejected:
        raise _identity(counts, f"{sum(total.values())} rows have keys, {total[True]} of them rejected")
    if sum(distinct.values()) < counts.read:
        path = ctx.root.path(FOLDER, f"{fingerprint}-repeated")
        repeated = grouped.where("n > 1").select("bad", "event_id", F.col("first.row").alias("row"))
        repeated.write.format("delta").mode("overwrite").save(path)
        rows = rows.join(ctx.spark.read.format("delta").load(path), ["bad", "event_id"], "left")
        rows = rows.where(F.col("row").isNull() | (F.col("row") == F.col(ROW))).drop("row")
    return Batch(
        rows.where(~F.col("bad")).drop("bad"),
        rows.where(F.col("bad")).drop("bad"),
        distinct[False],
        distinct[True],
        sorted(days[False]),
        sorted(days[True]),
    )


def already_there(catalog: Catalog, rows: DataFrame, name: str, *, key: str, where: str) -> int:
    """How many of these keys the table holds at these dates."""
    held = catalog.read(name).where(where).select(F.col(key).alias("event_id"))
    return rows.select("event_id").join(held, "event_id", "left_semi").count()


def _sum(test: Any) -> Any:
    return F.sum(F.coalesce(test, F.lit(False)).cast("bigint"))


def _identity(counts: Counts, found: str) -> RowIdentityError:
    return RowIdentityError(
        f"rows read {counts.read} (rejected {counts.rejected}), but {found}; nothing was made visible",
        remedy="the source changed while it was read, or this is a defect: run again, then report it",
    )
