"""Events that show items become one row a shown item: the impression before labels and history."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from operator import or_

from pyspark.sql import Column, DataFrame, Window, WindowSpec
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, MapType, NumericType, StringType, StructType

from sie_spark.ingest.outcomes import outcome, reason_of
from sie_spark.platform.config import Dataset
from sie_spark.platform.config.names import LIST_SIZE, SHOWN_BY, context_of, ranked
from sie_spark.platform.errors import ConfigError
from sie_spark.platform.failures import nearest, reason
from sie_spark.sources.drift import AS_JSON

ORDER = ("event_ts", "seq")
SESSION = "_session"  # session_id, or the list where there is none
INTERNAL = ("event_id", "event_date", "event_ts", "seq", "event_type", "user_id", "session_id", "item_id")
# what tells lists apart: an id may begin anew in another session, or on another day
LIST = (SESSION, "list_id", "event_date")
PACKED = "_packed"
REJECTED = "_rejected"  # whether an outcome that the row itself tells is neither 0 nor 1


def sessionised(events: DataFrame, gap_minutes: float) -> DataFrame:
    """``session_id`` cut where a user was inactive for longer than the gap.

    The id comes from the user and the time of the session's first event, so that it is the same in every run.
    """
    # an event of nobody stands alone, and does not pile up with all others in one task
    someone = F.coalesce("user_id", F.concat(F.lit("\u0000"), F.col("event_id")))
    ordered = Window.partitionBy(someone).orderBy("event_ts", sequence(), "event_id")
    since = F.unix_micros("event_ts") - F.unix_micros(F.lag("event_ts").over(ordered))
    frame = events.withColumn("_starts", since.isNull() | (since > round(gap_minutes * 60_000_000)))
    start = F.last(F.when(F.col("_starts"), F.col("event_ts")), ignorenulls=True).over(
        ordered.rowsBetween(Window.unboundedPreceding, 0)
    )
    name = F.concat_ws("-", "user_id", F.unix_micros(start))
    named = F.substring(F.sha2(name, 256), 1, 32)
    return frame.withColumn("session_id", F.when(F.col("user_id").isNotNull(), named)).drop("_starts")


def session_or_list() -> Column:
    """SESSION of a shown item: where no session is known its list stands alone, whole and without a history."""
    who = F.coalesce("user_id", F.lit(""))
    alone = F.concat_ws("\u0000", F.lit(""), who, "list_id", F.col("event_date").cast("string"))
    return F.coalesce("session_id", alone)


def says_lists(dataset: Dataset, columns: Sequence[str]) -> str | None:
    """SQL for the id of the shown list, whose events may be many; None where each event is a list."""
    return dataset.impressions.list_id or ("list_id" if "list_id" in columns else None)


def earlier_id(impression_id: Column) -> Column:
    """An impression's id as 0.5 made it, without its date."""
    return F.regexp_replace(impression_id, r"-\d{4,}-\d\d-\d\d", "")


def shown(events: DataFrame, dataset: Dataset, carried: list[str]) -> DataFrame:
    """One row a shown item.

    Columns: impression_id (an event's key may come again on another day, its impressions' ids do not), event_id,
    list_id (the event's where nothing says it), event_ts, event_date, seq, user_id, session_id, item_id
    strings; position int (1-based, null where unknown); the context and parallel columns; click and
    conversion int or null; sampling_rate; ``carried`` event columns that attribution matches on; REJECTED, where the
    row itself tells an outcome: such a row was shown, and is left out at last by :func:`accepted`.

    Raises
    ------
    ConfigError
        for an expression that does not fit the events.
    """
    frame, context = _items(events, dataset)
    settings, told = dataset.impressions, told_outcomes(dataset, events.columns)
    names = [name for name in settings.parallel if name != "position"] if settings.items else []
    there = {*INTERNAL, *context, *names, "list_id", "position"} - {"event_type"}
    extra = [name for name in carried if name not in there]
    rows = frame.select(
        F.col("_impression_id").alias("impression_id"),
        "event_id",
        F.col("_list_id").alias("list_id"),
        *[F.col(name) for name in ("event_ts", "event_date", "seq", "user_id", "session_id", "item_id")],
        F.col("_position").alias("position"),
        *[F.col(name) for name in (*context, *names)],
        *[
            _outcome(frame, told.get(name), f"impressions.{name}").alias(name)
            for name in ("click", "conversion")
        ],
        "sampling_rate",
        *[F.col(name).alias(f"_m_{name}") for name in extra],
    )
    _check_used(rows, events, dataset)
    return rows.withColumn(REJECTED, _any_null(told)) if told else rows


def told_outcomes(dataset: Dataset, columns: Sequence[str]) -> dict[str, str]:
    """click, conversion: the SQL that tells it of a shown item; none where events of their own do, or nothing."""
    settings = dataset.impressions
    given = {
        "click": (settings.click, settings.click_event),
        "conversion": (settings.conversion, settings.conversion_event),
    }
    found = {name: sql or _label_column(dataset, columns, name) for name, (sql, _) in given.items()}
    return {name: sql for name, sql in found.items() if sql is not None and given[name][1] is None}


def items_shown(dataset: Dataset) -> Column:
    """How many items an event shows, bigint: the rows that :func:`shown` makes of it."""
    settings = dataset.impressions
    number = F.lit(1)
    if settings.items:
        known = F.size(F.filter(settings.items, lambda item: item.isNotNull()))
        number = F.when(F.col(settings.items).isNotNull(), known).otherwise(0)
    return F.when(F.expr(settings.event), number).otherwise(0).cast("bigint")


def accepted(rows: DataFrame) -> DataFrame:
    """The rows of :func:`shown` without the rejected ones."""
    return rows.where(~F.col(REJECTED)) if REJECTED in rows.columns else rows


def rejected(events: DataFrame, dataset: Dataset) -> DataFrame:
    """The rejected ones of :func:`shown`: impression_id, event_date, reasons array<string>, record (JSON).

    A record has the item, its list and its people as they stand in events, and its outcomes as they came.
    """
    frame, context = _items(events, dataset)
    raw = _raw(told_outcomes(dataset, events.columns))
    wrong = [F.when(outcome(value).isNull(), F.lit(reason_of(name))) for name, value in raw.items()]
    kept = ("event_id", "event_ts", "user_id", "session_id", "item_id", *context)
    record = {
        "impression_id": F.col("_impression_id"),
        "list_id": F.col("_list_id"),
        **{name: F.col(name) for name in kept},
        "position": F.col("_position"),
        **raw,
    }
    fields = F.struct(*[value.alias(name) for name, value in record.items()])
    return frame.select(
        F.col("_impression_id").alias("impression_id"),
        "event_date",
        F.array_compact(F.array(*wrong)).alias("reasons"),
        F.to_json(fields, {**AS_JSON, "ignoreNullFields": "false"}).alias("record"),
    ).where(F.size("reasons") > 0)


def outcome_values(events: DataFrame, dataset: Dataset) -> tuple[DataFrame, dict[str, str]]:
    """The outcomes that rows themselves tell, as text, of every shown item; and their types in words."""
    frame, _ = _items(events, dataset)
    told = told_outcomes(dataset, events.columns)
    kinds = {name: frame.select(F.expr(sql).alias(name)).schema[name].dataType for name, sql in told.items()}
    texts = [value.alias(name) for name, value in _raw(told).items()]
    return frame.select(*texts), {name: kind.simpleString() for name, kind in kinds.items()}


def _raw(told: Mapping[str, str]) -> dict[str, Column]:
    return {name: F.expr(sql).cast("string") for name, sql in told.items()}


def _items(events: DataFrame, dataset: Dataset) -> tuple[DataFrame, list[str]]:
    """Shown items beside the columns of their events, and which of these are the context."""
    settings = dataset.impressions
    lists = select_events(events, settings.event, "impressions.event")
    context = context_of(dataset, events.columns)
    for name in [*context, *settings.parallel.values(), *([settings.items] if settings.items else [])]:
        if name not in events.columns:
            raise ConfigError(f"impressions: no event column '{name}'", remedy=nearest(name, events.columns))
    if settings.items:
        _check_items(events, settings.items)
    said = says_lists(dataset, events.columns)
    list_id = F.col("event_id")
    if said:  # an event that names none is a list of its own
        list_id = F.coalesce(F.nullif(_value(lists, said, "list_id").cast("string"), F.lit("")), list_id)
    dated = F.concat_ws("-", "event_id", F.col("event_date").cast("string"))
    frame = lists.withColumns({"_list_id": list_id, "_impression_id": dated})
    if settings.items:
        frame = _exploded(frame, settings.items, settings.parallel)
    else:
        position = settings.position or ("position" if "position" in events.columns else "NULL")
        frame = frame.select(
            "*",
            _value(frame, position, "position").cast("int").alias("_position"),
            F.col("item_id").alias(SHOWN_BY),
        )
    return frame, context


def _check_used(rows: DataFrame, events: DataFrame, dataset: Dataset) -> None:
    """What settings name of an impression must be there: a wrong group would give intervals that are too narrow."""
    ranked = dataset.impressions.list_relative
    used = {
        "impressions.list_relative": ranked,
        "history.rates": dataset.history.rates,
        "group": [dataset.group] if dataset.group else [],
    }
    kinds = {field.name: field.dataType for field in rows.schema if not field.name.startswith("_")}
    for setting, names in used.items():
        for name in names:
            if name not in kinds:
                raise ConfigError(
                    f"dataset.{setting}: impressions have no column '{name}'",
                    remedy=f"add '{name}' to dataset.impressions.context, which carries it to every impression"
                    if name in events.columns
                    else nearest(name, list(kinds)),
                )
    for name in ranked:
        kind = kinds[name]
        if not isinstance(kind, (NumericType, StringType)):
            raise ConfigError(
                f"dataset.impressions.list_relative: column '{name}' is {kind.simpleString()[:120]}, not a number",
                remedy=f"cast it to a number in dataset.columns.{name}",
            )


def select_events(events: DataFrame, sql: str, setting: str) -> DataFrame:
    """Events for which a predicate of the YAML holds."""
    from pyspark.errors import PySparkException

    try:
        chosen = events.where(F.expr(sql))
        chosen.schema  # noqa: B018 - Connect analyses when asked
    except PySparkException as error:
        raise ConfigError(
            f"dataset.{setting}: '{sql}' is not valid: {reason(error)}",
            remedy=f"correct the SQL; columns of events: {', '.join(events.columns)}",
        ) from None
    return chosen


def whole_list(names: Sequence[str]) -> WindowSpec:
    """The list of a shown item, whole.

    Sorted by its numbers, the last one first: one pass gives the sums and the last one's ranks, and no sum
    depends on the order in which a shuffle brought the rows.
    """
    lists = Window.partitionBy(*LIST)
    if not names:
        return lists
    rows = (Window.unboundedPreceding, Window.unboundedFollowing)
    return lists.orderBy(*[F.col(_sorted(name)).asc_nulls_last() for name in reversed(names)]).rowsBetween(
        *rows
    )


def list_relative(frame: DataFrame, names: Sequence[str]) -> tuple[DataFrame, dict[str, Column]]:
    """``<name>_rank`` (1 = least) for each number; and ``list_size`` and ``<name>_ratio`` to the list's mean.

    A missing number has neither and takes no part in the others' ranks. The columns are given back, to be
    added together with whatever else :func:`whole_list` gives; the frame has the numbers they are sorted by.
    """
    lists, whole = Window.partitionBy(*LIST), whole_list(names)
    numbers = {_sorted(name): F.col(name).cast("double") for name in names}
    known = {name: F.when(~F.isnan(value), value) for name, value in numbers.items()}
    columns: dict[str, Column] = {LIST_SIZE: F.count("*").over(whole).cast("int")}
    for name in names:
        value = F.col(_sorted(name))
        rank = F.rank().over(lists.orderBy(value.asc_nulls_last()))
        mean = F.avg(value).over(whole)
        rank_of, ratio_of = ranked(name)
        columns[rank_of] = F.when(value.isNotNull(), rank).cast("int")
        columns[ratio_of] = F.when(value.isNotNull() & (mean != 0), value / mean)
    return frame.select("*", *[value.alias(name) for name, value in known.items()]), columns


def _sorted(name: str) -> str:
    return f"_sorted_{name}"


def packed(rows: DataFrame, needed: Iterable[str]) -> DataFrame:
    """All columns but the needed ones in one struct: a window copies a row's columns one by one, a struct whole."""
    kept = [name for name in rows.columns if name in set(needed)]
    others = [name for name in rows.columns if name not in kept]
    return rows.select(*kept, F.struct(*others).alias(PACKED)) if others else rows


def unpacked(rows: DataFrame) -> DataFrame:
    """The columns that :func:`packed` put away, beside those that were added since."""
    if PACKED not in rows.columns:
        return rows
    return rows.select(*[name for name in rows.columns if name != PACKED], f"{PACKED}.*")


def _label_column(dataset: Dataset, columns: Sequence[str], kind: str) -> str | None:
    """The event column that says whether an item was clicked, or bought; None where there is none."""
    if kind in columns:
        return kind
    return "label" if dataset.kind != "events" and dataset.label == kind else None


def _exploded(frame: DataFrame, items: str, parallel: dict[str, str]) -> DataFrame:
    """Lists longer than their items have no impression there; a list can name an item twice, and lack prices."""
    beside = [
        F.coalesce(name, F.array().cast(frame.schema[name].dataType)).alias(name)
        for name in parallel.values()
    ]
    zipped = F.arrays_zip(F.col(items), *beside)
    kept = [F.col(name) for name in frame.columns if name not in parallel]
    rows = frame.select(*kept, F.posexplode(zipped).alias("_at", "_shown"))
    place = F.col(f"_shown.{parallel['position']}") if "position" in parallel else F.col("_at") + 1
    own = ("item_id", "position", "_impression_id")
    others = [name for name in frame.columns if name not in (*parallel, *own)]
    return rows.select(
        *[F.col(name) for name in others],
        F.col("item_id").alias(SHOWN_BY),
        F.col(f"_shown.{items}").cast("string").alias("item_id"),
        *[F.col(f"_shown.{source}").alias(name) for name, source in parallel.items() if name != "position"],
        place.cast("int").alias("_position"),
        F.concat_ws("-", "_impression_id", F.col("_at") + 1).alias("_impression_id"),
    ).where("item_id IS NOT NULL")


def _check_items(events: DataFrame, items: str) -> None:
    kind = events.schema[items].dataType
    inner = kind.elementType if isinstance(kind, ArrayType) else None
    if inner is None or isinstance(inner, (ArrayType, MapType, StructType)):
        raise ConfigError(
            f"dataset.impressions.items: column '{items}' is {kind.simpleString()[:120]}, not an array of item ids",
            remedy=f"make one in dataset.columns, e.g. {items}: transform(shown, x -> x.item_id), and arrays of its"
            " other fields for impressions.parallel",
        )


def _any_null(names: Iterable[str]) -> Column:
    return reduce(or_, [F.col(name).isNull() for name in names])


def _outcome(frame: DataFrame, sql: str | None, setting: str) -> Column:
    from pyspark.errors import PySparkException

    if sql is None:
        return F.lit(None).cast("int")
    try:
        frame.select(F.expr(sql)).schema  # noqa: B018 - Connect analyses when asked
    except PySparkException as error:
        raise ConfigError(
            f"dataset.{setting}: '{sql}' is not valid: {reason(error)}",
            remedy="correct the SQL; the event's own item is event_item_id there, the shown one item_id",
        ) from None
    return outcome(F.expr(sql))


def _value(frame: DataFrame, sql: str, setting: str) -> Column:
    """SQL of a setting below impressions, if it is valid over the events."""
    from pyspark.errors import PySparkException

    try:
        frame.select(F.expr(sql)).schema  # noqa: B018 - Connect analyses when asked
    except PySparkException as error:
        raise ConfigError(
            f"dataset.impressions.{setting}: '{sql}' is not valid: {reason(error)}",
            remedy=f"correct the SQL; columns of events: {', '.join(n for n in frame.columns if n[0] != '_')}",
        ) from None
    return F.expr(sql)


def sequence(column: str = "seq") -> Column:
    """The order among events of one time, bigint; 0 where there is none."""
    return F.coalesce(F.col(column), F.lit(0))
