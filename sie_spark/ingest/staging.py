"""A batch is written once, tagged and counted, before anything of it is visible.

The staged copy lies under ``root/_staging/<fingerprint>``. Killed before its counts are written, it is made
again; killed after, the next run goes on from it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from pyspark.sql import Column, DataFrame, Observation, Window
from pyspark.sql import functions as F

from sie_spark.ingest.canonical import ID_LENGTH, Canonical, every_row_counts, judged_by
from sie_spark.ingest.times import UNKNOWN_DATE
from sie_spark.platform.catalog import Catalog, retried
from sie_spark.platform.errors import RowIdentityError, SourceError
from sie_spark.platform.root import Root
from sie_spark.platform.tables import around, dates_in, within_days

if TYPE_CHECKING:
    from sie_spark.platform.context import Context

FOLDER = "_staging"
LANDING = "landing-"  # rows of an incremental source that are not published yet
ROW, BAD = "_row", "_bad"  # a number a row, whether it is rejected
FIRST, NONE = "_first", -1  # the number of a key's first row; no row's number
TIMES = "_times"  # how many rows of a batch have a key
DRIFTED = r"(?m)^(new_column|missing_column|type_change):"
OTHERS = r"(?m)^(?!(new_column|missing_column|type_change):)."
KEYS = (BAD, "_h1", "_h2")  # beside it two hashes of the event's id
DAY = "event_date"
KINDS = ("drifted", "unreadable", "unclear", "ruled_out")  # of rejected rows, as in Counts


@dataclass(frozen=True)
class Counts:
    """What one pass over the source saw."""

    read: int
    rejected: int
    outside: int = 0
    drifted: int = 0  # rejected for the columns of their file
    unreadable: int = 0  # that cannot be parsed, or not as the data set says
    unclear: int = 0  # for nothing but an outcome that is neither 0 nor 1
    ruled_out: int = 0  # that break a rule of the user's
    fields: int = 0  # of a line of CSV; 0: unknown
    reasons: dict[str, int] = field(default_factory=dict)
    warnings: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Fate:
    """What became of the rows of a batch: read = kept + quarantined + duplicate."""

    read: int
    kept: int
    quarantined: int
    duplicate: int


def in_range(first: str | None, last: str | None) -> Any:
    """The test for rows of the asked dates; rejected rows without a date always stay."""
    test = F.lit(True)
    if first:
        test = test & (F.col("event_date") >= F.lit(first).cast("date"))
    if last:
        test = test & (F.col("event_date") <= F.lit(last).cast("date"))
    return test | (F.col("event_date") == F.lit(UNKNOWN_DATE).cast("date"))


class Look(Protocol):
    """What a batch is judged by as a whole: more to measure, and a refusal before the batch counts as staged."""

    measures: list[Column]

    def check(self, saw: dict[str, Any]) -> None:
        """Raise SourceError to refuse."""


def stage(ctx: Context, canonical: Canonical, fingerprint: str, look: Look | None = None) -> Counts:
    """Write a batch's tagged rows in one pass and count them in the same pass."""
    run = ctx.config.run
    asked = bool(run.date_from or run.date_to)
    stays = in_range(run.date_from, run.date_to)
    rejected = F.col(BAD) & stays if asked else F.col(BAD)
    measures = [F.count("*").alias("read"), _count(rejected).alias("rejected")]
    measures += [_count(F.when(rejected, test)).alias(name) for name, test in _kinds(ctx).items()]
    if asked:
        measures.append(_count(~stays).alias("outside"))
    for index, reason in enumerate(canonical.reasons):
        measures.append(_count(rejected & F.array_contains("reasons", reason)).alias(f"r{index}"))
    measures += [
        _count(F.col(flag) & stays if asked else F.col(flag)).alias(flag) for flag in canonical.warnings
    ]
    measures += look.measures if look else []
    rows = canonical.frame.withColumn(BAD, F.size("reasons") > 0)

    seen = Observation(f"staged-{fingerprint}")
    frame = rows.observe(seen, *measures)
    if asked:
        frame = frame.where(stays)
    frame = frame.drop(*canonical.warnings, *canonical.masks)
    overwrite(frame.withColumn(ROW, F.monotonically_increasing_id()), ctx.root.path(FOLDER, fingerprint))
    saw = seen.get
    outside = int(saw["outside"] or 0) if asked else 0
    counts = Counts(
        read=int(saw["read"]) - outside,
        rejected=int(saw["rejected"] or 0),
        outside=outside,
        fields=canonical.fields,
        reasons={name: n for i, name in enumerate(canonical.reasons) if (n := int(saw[f"r{i}"] or 0))},
        warnings={name: n for flag, name in canonical.warnings.items() if (n := int(saw[flag] or 0))},
        **{name: int(saw[name] or 0) for name in KINDS},
    )
    if look is not None:
        try:
            look.check(saw)
        except SourceError:
            clear(ctx.root, fingerprint)
            raise
    save_counts(ctx.root, fingerprint, counts)
    return counts


def _kinds(ctx: Context) -> dict[str, Column]:
    """Of a rejected row: whether it is of one of KINDS."""
    own, outcomes = judged_by(ctx.config.dataset)

    def holds(names: list[str]) -> Column:
        return F.arrays_overlap("reasons", F.array(*map(F.lit, names))) if names else F.lit(False)

    # what neither rules nor outcomes are to blame for
    known = F.array(*map(F.lit, [*own, *outcomes])).cast("array<string>")
    others = F.array_join(F.array_except("reasons", known), "\n")
    unclear = holds(outcomes) & ~holds(own) & (others == "")  # not for a value that could not be read
    found = (others.rlike(DRIFTED), others.rlike(OTHERS), unclear, holds(own))
    return dict(zip(KINDS, found, strict=True))


def save_counts(root: Root, fingerprint: str, counts: Counts) -> None:
    """Written after the staged rows: says that they are whole."""
    root.write_bytes(json.dumps(asdict(counts), sort_keys=True).encode(), FOLDER, f"{fingerprint}.json")


def load_counts(root: Root, fingerprint: str) -> Counts | None:
    """The counts of a staged batch that is whole, or None."""
    found = root.read_json(FOLDER, f"{fingerprint}.json")
    return None if found is None else Counts(**found)


def staged(ctx: Context, fingerprint: str) -> DataFrame:
    """The staged rows."""
    return ctx.spark.read.format("delta").load(ctx.root.path(FOLDER, fingerprint))


def repeated(ctx: Context, fingerprint: str) -> DataFrame:
    """The keys and dates of staged rows that are not one row of events or quarantine each; see distinct_rows."""
    return ctx.spark.read.format("delta").load(ctx.root.path(FOLDER, f"{fingerprint}-repeated"))


def overwrite(frame: DataFrame, path: str) -> None:
    """Write rows that are read once and removed: statistics of their columns would be in vain.

    Written again where another's commit comes in between: a client of Spark Connect that is killed leaves its
    query behind, and the next run writes to the same place.
    """
    writer = frame.write.format("delta").mode("overwrite").option("overwriteSchema", "true")
    writer = writer.option("delta.dataSkippingNumIndexedCols", "0")
    retried(lambda: writer.save(path))


def clear(root: Root, fingerprint: str) -> None:
    """Remove a staged batch; the counts go first, so that half a batch is never taken for a whole one."""
    for name in (f"{fingerprint}.json", fingerprint, f"{fingerprint}-repeated"):
        root.remove(FOLDER, name)


def clear_all(root: Root) -> None:
    """Remove every staged batch, also of sources that have changed since; landed rows stay.

    A batch that was still wanted is made again.
    """
    for name in root.entries(FOLDER):
        if not name.startswith(LANDING):
            root.remove(FOLDER, name)


@dataclass(frozen=True)
class Batch:
    """A staged batch, each id once within ``dedup_days``: rows for events and for quarantine, counts and dates."""

    accepted: DataFrame
    rejected: DataFrame
    distinct_accepted: int
    distinct_rejected: int
    duplicates: int  # of accepted rows, within the batch
    accepted_dates: list[str]
    rejected_dates: list[str]


def distinct_rows(ctx: Context, fingerprint: str, counts: Counts, *, anew: bool = False) -> Batch:
    """Choose one row a key and date, none within ``dedup_days`` after another; the identity is checked here,
    before anything is visible.

    A batch of many dates gives what its dates give one after the other, after what table events holds. Only two
    hashes of the key, the date and the row's number are shuffled, all of fixed width; repeated keys, few in a
    healthy log, go into a small table that the merge leaves out by. The key is 128 bits of SHA-256 and the hashes
    are 128 bits too, so taking one for the other loses nothing.

    Where every row counts (:func:`every_row_counts`) nothing is left out: the chosen one of n equal rows stands for
    all of them, and is written n times, each with an id of its own.

    Parameters
    ----------
    anew:
        table events is made of this batch alone, whatever it holds now.

    Raises
    ------
    RowIdentityError
        when the staged rows are not the rows that were read.
    """
    every = every_row_counts(ctx.config.dataset)
    within = 0 if every else ctx.config.dataset.dedup_days
    fates = {"accepted": ~F.col(BAD), "rejected": F.col(BAD)}
    dated = {
        name: F.collect_set(F.when(test, F.col("event_date").cast("string"))) for name, test in fates.items()
    }
    texts = [F.array_join(column, ",").alias(name) for name, column in dated.items()]
    rows_of = [_sum_if(test, F.col(TIMES)).alias(f"{name}_rows") for name, test in fates.items()]
    rows_of += [_sum_if(test, F.col(TIMES) - 1).alias(f"{name}_more") for name, test in fates.items()]
    keys_of = [_count(test & F.col("stays")).alias(f"{name}_keys") for name, test in fates.items()]
    keys_of.append(_count(fates["accepted"] & ~F.col("stays")).alias("too_near"))
    path = ctx.root.path(FOLDER, f"{fingerprint}-repeated")

    days, total, keyed = (Observation(f"{name}-{fingerprint}") for name in ("days", "rows", "keys"))
    rows = with_keys(staged(ctx, fingerprint)).observe(days, *texts)
    if within:  # one shuffle serves the dates of a key and the key
        rows = rows.repartition(*[F.col(name) for name in KEYS])
    grouped = rows.groupBy(*KEYS, DAY).agg(F.count("*").alias(TIMES), F.min(ROW).alias(FIRST))
    grouped = grouped.observe(total, *rows_of)
    if within and not anew and ctx.catalog.exists("events"):
        grouped = _not_held(ctx, fingerprint, grouped, within)
    grouped = grouped.withColumn("stays", _stays(within)).observe(keyed, *keys_of)
    chosen = F.when(F.col("stays"), F.col(FIRST)).otherwise(NONE).alias(FIRST)
    overwrite(grouped.where(f"{TIMES} > 1 OR NOT stays").select(*KEYS, DAY, chosen, TIMES), path)
    days_said = days.get
    found = {name: int(value or 0) for name, value in {**total.get, **keyed.get}.items()}
    read = found["accepted_rows"] + found["rejected_rows"]
    if read != counts.read or found["rejected_rows"] != counts.rejected:
        raise _identity(counts, f"{read} rows have keys, {found['rejected_rows']} of them rejected")
    rows = staged(ctx, fingerprint)
    if found["accepted_keys"] + found["rejected_keys"] < counts.read:
        rows = with_keys(rows).join(repeated(ctx, fingerprint), [*KEYS, DAY], "left")
        rows = rows.where(F.col(FIRST).isNull() | (F.col(FIRST) == F.col(ROW)))
        rows = _each_of_equal_rows(rows) if every else rows
        rows = rows.drop(FIRST, TIMES, *KEYS[1:])
    kept = "rows" if every else "keys"
    dates = {name: sorted(filter(None, (days_said[name] or "").split(","))) for name in fates}
    return Batch(
        rows.where(~F.col(BAD)).drop(BAD),
        rows.where(F.col(BAD)).drop(BAD),
        found[f"accepted_{kept}"],
        found[f"rejected_{kept}"],
        0 if every else found["accepted_more"] + found["too_near"],
        dates["accepted"],
        dates["rejected"],
    )


def _each_of_equal_rows(rows: DataFrame) -> DataFrame:
    """A row as often as the batch holds it: the first keeps its id, the others' say which of them they are."""
    copies = F.sequence(F.lit(1).cast("bigint"), F.coalesce(TIMES, F.lit(1).cast("bigint")))
    rows = rows.withColumn("_copy", F.explode(copies))
    own = F.substring(F.sha2(F.concat_ws("\u0001", "event_id", "_copy"), 256), 1, ID_LENGTH)
    return rows.withColumn("event_id", F.when(F.col("_copy") == 1, F.col("event_id")).otherwise(own)).drop(
        "_copy"
    )


def _not_held(ctx: Context, fingerprint: str, grouped: DataFrame, within: int) -> DataFrame:
    """The keys and dates but for those that table events holds within ``dedup_days``.

    The merge leaves those out; one that stayed here would leave out later dates of its key, and then neither came in.
    """
    dates = staged(ctx, fingerprint).where(~F.col(BAD)).select(F.col(DAY).cast("string")).distinct()
    where = dates_in(around([row[0] for row in dates.collect()], within))  # a row a date
    held = ctx.catalog.read("events").where(where).withColumn(BAD, F.lit(False))
    held = with_keys(held).select(*KEYS, DAY)
    same = [F.col(f"s.{name}") == F.col(f"t.{name}") for name in KEYS]
    return grouped.alias("s").join(held.alias("t"), [*same, F.expr(within_days(within))], "left_anti")


def _stays(days: int) -> Column:
    """Whether a date's row of a key is further than so many days from the last earlier one that stays.

    Example: dates 1, 2, 3, 5 and one day -> 1, 3 and 5 stay.
    """
    if not days:
        return F.lit(True)
    upto = Window.partitionBy(*KEYS).orderBy(DAY).rowsBetween(Window.unboundedPreceding, 0)
    newest = F.aggregate(
        F.collect_list(DAY).over(upto),
        F.lit(None).cast("date"),
        lambda kept, day: F.when(F.datediff(day, kept) <= days, kept).otherwise(day),
    )
    return newest == F.col(DAY)


def with_keys(rows: DataFrame) -> DataFrame:
    """Staged rows with the hashes among KEYS."""
    return rows.withColumns(
        {KEYS[1]: F.xxhash64("event_id"), KEYS[2]: F.xxhash64(F.lit("second"), "event_id")}
    )


def new_by_date(
    catalog: Catalog, rows: DataFrame, name: str, *, key: str, where: str, days: int
) -> dict[str, int]:
    """How many of these rows a table does not hold within so many days, each date that has some."""
    held = catalog.read(name).where(where).select(F.col(key).alias("event_id"), DAY)
    same = F.expr(f"t.event_id = s.event_id AND {within_days(days)}")
    new = rows.select("event_id", DAY).alias("s").join(held.alias("t"), same, "left_anti")
    counted = new.groupBy(F.col(DAY).cast("string")).count().collect()  # a row a date
    return {str(day): int(count) for day, count in counted}


def _sum_if(test: Any, value: Any) -> Any:
    return F.sum(F.when(test, value))


def _count(test: Any) -> Any:
    return F.count(F.when(test, 1))


def _identity(counts: Counts, found: str) -> RowIdentityError:
    return RowIdentityError(
        f"rows read {counts.read} (rejected {counts.rejected}), but {found}; nothing was made visible",
        remedy="the source changed while it was read, or this is a defect: run again, then report it",
    )
