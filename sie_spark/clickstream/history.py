"""What a session did strictly before it was shown an item, by (event_ts, seq); ties do not count.

Shown items and the session's earlier actions are sorted together, one shuffle by session. At an equal
(event_ts, seq) a shown item sorts before an action, so that neither the click on the list itself nor
anything tied with it is seen. Where the event that shows an item is remembered itself, one row can be both:
then every row takes what was known to the first of those tied with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from pyspark.sql import Column, DataFrame, Window, WindowSpec
from pyspark.sql import functions as F

from sie_spark.clickstream.attribution import seconds_between
from sie_spark.clickstream.shown import SESSION
from sie_spark.platform.config import History

ACTION, COUNTED, TYPE, SEQ = "_action", "_counted", "_type", "_seq"
LAST, RECENT = "_last_item", "recent_items"
INTERNAL = (ACTION, COUNTED, TYPE, SEQ, LAST)


def slug(event_type: str) -> str:
    """An event type as part of a column name."""
    return re.sub(r"\W+", "_", event_type.strip().lower()).strip("_")


def wanted(settings: History) -> bool:
    """Whether any history column is asked for."""
    return bool(settings.types or settings.session or settings.recent_items)


def with_history(rows: DataFrame, events: DataFrame, settings: History) -> DataFrame:
    """Add the ``hist_*`` columns (bigint counts) and ``recent_items``; :func:`list_history` comes last.

    ``rows`` needs SESSION, item_id, event_ts, seq, list_id, position. ``events`` may begin earlier.
    """
    actions = events.where(F.col("session_id").isNotNull())
    if settings.types:
        actions = actions.where(F.col("event_type").isin(settings.types))
    both = shown_rows(rows).unionByName(
        actions.select(*action_columns(), F.lit(1).alias(COUNTED)), allowMissingColumns=True
    )
    return remembered(both, settings)


def shown_rows(rows: DataFrame, *, counted: Column | None = None) -> DataFrame:
    """Impressions as they are sorted among actions; ``counted``: 1 where they are actions themselves."""
    return rows.withColumns(
        {ACTION: F.lit(0), COUNTED: F.lit(0) if counted is None else counted, SEQ: _sequence()}
    )


def action_columns() -> list[Column]:
    """What of an event takes part in a session's history."""
    return [
        F.col("session_id").alias(SESSION),
        F.col("item_id"),
        F.col("event_ts"),
        _sequence().alias(SEQ),
        F.col("event_type").alias(TYPE),
        F.lit(1).alias(ACTION),
    ]


def remembered(both: DataFrame, settings: History, *, of_themselves: bool = False) -> DataFrame:
    """The history columns over impressions and actions together; the impressions are given back.

    The session window comes first: its shuffle serves the windows by (session, item) and by list too.
    ``of_themselves`` says that impressions may be actions too (COUNTED).
    """
    both = _by_session(both, settings, of_themselves=of_themselves)
    return _by_item(both, settings, of_themselves=of_themselves).where(F.col(ACTION) == 0)


def _by_session(both: DataFrame, settings: History, *, of_themselves: bool) -> DataFrame:
    ties = ("item_id",) if of_themselves else (ACTION, "item_id")
    before = _before((SESSION,), ties, of_themselves=of_themselves)
    columns: dict[str, Column] = {}
    if settings.recent_items:
        # the list is made once an action, and each shown item takes over the newest
        own = Window.partitionBy(SESSION, COUNTED).orderBy("event_ts", SEQ, "item_id")
        last = F.collect_list("item_id").over(own.rowsBetween(1 - settings.recent_items, 0))
        listed = F.when((F.col(COUNTED) == 1) & F.col("item_id").isNotNull(), F.reverse(last))
        # partition by session first, for the sake of the shuffle
        both = both.repartition(F.col(SESSION)).withColumn("_recent", listed)
        columns[RECENT] = F.last("_recent", ignorenulls=True).over(before)
    if settings.session:
        columns["hist_session_events"] = F.sum(COUNTED).over(before)
        acted = F.when(F.col(COUNTED) == 1, F.col("item_id"))
        columns[LAST] = F.last(acted, ignorenulls=True).over(before)
    if not columns:
        return both
    frame = _as_of_first(both.withColumns(columns), columns, (SESSION,), ties, of_themselves=of_themselves)
    none = {RECENT: F.array().cast("array<string>"), "hist_session_events": F.lit(0)}
    filled = {name: F.coalesce(name, default) for name, default in none.items() if name in columns}
    return frame.withColumns(filled).drop("_recent")


def _by_item(both: DataFrame, settings: History, *, of_themselves: bool) -> DataFrame:
    if not settings.types:
        return both
    before = _before((SESSION, "item_id"), (ACTION,), of_themselves=of_themselves)
    counted = F.col(COUNTED) == 1
    columns: dict[str, Column] = {"hist_events": F.count(F.when(counted, 1)).over(before)}
    for name in settings.types:
        columns[f"hist_{slug(name)}"] = F.count(F.when(counted & (F.col(TYPE) == name), 1)).over(before)
    columns["_acted"] = F.last(F.when(counted, F.col("event_ts")), ignorenulls=True).over(before)
    frame = both.withColumns(columns)
    frame = _as_of_first(frame, columns, (SESSION, "item_id"), (ACTION,), of_themselves=of_themselves)
    return frame.withColumn("hist_seconds_since", seconds_between(F.col("_acted"), F.col("event_ts"))).drop(
        "_acted"
    )


def _before(keys: Sequence[str], ties: Sequence[str], *, of_themselves: bool) -> WindowSpec:
    """The rows up to this one, itself left out where it may be an action."""
    order = Window.partitionBy(*keys).orderBy("event_ts", SEQ, *ties)
    return order.rowsBetween(Window.unboundedPreceding, -1 if of_themselves else 0)


def _as_of_first(
    frame: DataFrame, columns: Iterable[str], keys: Sequence[str], ties: Sequence[str], *, of_themselves: bool
) -> DataFrame:
    """What was known to the first of the rows at one (event_ts, seq); the sort is that of :func:`_before`."""
    if not of_themselves:
        return frame
    tied = Window.partitionBy(*keys, "event_ts", SEQ).orderBy(*ties)
    tied = tied.rowsBetween(Window.unboundedPreceding, 0)
    return frame.withColumns({name: F.first(name).over(tied) for name in columns})


def list_history(settings: History) -> dict[str, Column]:
    """What the history of its items says of a whole list (bigint, double, int places)."""
    whole = Window.partitionBy(SESSION, "list_id", "event_ts")
    columns: dict[str, Column] = {}
    if settings.types:
        total = F.sum("hist_events").over(whole)
        columns["hist_list_events"] = total
        columns["hist_list_share"] = F.when(total > 0, F.col("hist_events") / total).otherwise(F.lit(0.0))
    if settings.session:
        is_last = F.coalesce(F.col("item_id") == F.col(LAST), F.lit(False))
        columns["hist_last_is_item"] = is_last.cast("int")
        place = F.max(F.when(is_last, F.col("position"))).over(whole)
        columns["hist_last_distance"] = F.col("position") - place
    return columns


def _sequence() -> Column:
    return F.coalesce(F.col("seq"), F.lit(0)).cast("bigint")
