"""What a session did strictly before it was shown an item, by (event_ts, seq); ties do not count.

Shown items and the session's earlier actions are sorted together, one shuffle by session. At an equal
(event_ts, seq) a shown item sorts before an action, so that neither the click on the list itself nor
anything tied with it is seen.
"""

from __future__ import annotations

import re

from pyspark.sql import Column, DataFrame, Window
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


def shown_rows(rows: DataFrame) -> DataFrame:
    """Impressions as they are sorted among actions."""
    return rows.withColumns({ACTION: F.lit(0), COUNTED: F.lit(0), SEQ: _sequence()})


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


def remembered(both: DataFrame, settings: History) -> DataFrame:
    """The history columns over impressions and actions together; the impressions are given back.

    The session window comes first: its shuffle serves the windows by (session, item) and by list too.
    """
    return _by_item(_by_session(both, settings), settings).where(F.col(ACTION) == 0)


def _by_session(both: DataFrame, settings: History) -> DataFrame:
    order = Window.partitionBy(SESSION).orderBy("event_ts", SEQ, ACTION, "item_id")
    before = order.rowsBetween(Window.unboundedPreceding, 0)
    columns: dict[str, Column] = {}
    if settings.recent_items:
        # the list is made once an action, and each shown item takes over the newest
        own = Window.partitionBy(SESSION, COUNTED).orderBy("event_ts", SEQ, "item_id")
        last = F.collect_list("item_id").over(own.rowsBetween(1 - settings.recent_items, 0))
        listed = F.when((F.col(COUNTED) == 1) & F.col("item_id").isNotNull(), F.reverse(last))
        # partition by session first, for the sake of the shuffle
        both = both.repartition(F.col(SESSION)).withColumn("_recent", listed)
        columns[RECENT] = F.coalesce(
            F.last("_recent", ignorenulls=True).over(before), F.array().cast("array<string>")
        )
    if settings.session:
        columns["hist_session_events"] = F.sum(COUNTED).over(before)
        acted = F.when(F.col(COUNTED) == 1, F.col("item_id"))
        columns[LAST] = F.last(acted, ignorenulls=True).over(before)
    return both.withColumns(columns).drop("_recent") if columns else both


def _by_item(both: DataFrame, settings: History) -> DataFrame:
    if not settings.types:
        return both
    order = Window.partitionBy(SESSION, "item_id").orderBy("event_ts", SEQ, ACTION)
    before = order.rowsBetween(Window.unboundedPreceding, 0)
    columns: dict[str, Column] = {"hist_events": F.sum(COUNTED).over(before)}
    for name in settings.types:
        columns[f"hist_{slug(name)}"] = F.count(
            F.when((F.col(COUNTED) == 1) & (F.col(TYPE) == name), 1)
        ).over(before)
    acted = F.when(F.col(COUNTED) == 1, F.col("event_ts"))
    columns["_acted"] = F.last(acted, ignorenulls=True).over(before)
    frame = both.withColumns(columns)
    return frame.withColumn("hist_seconds_since", seconds_between(F.col("_acted"), F.col("event_ts"))).drop(
        "_acted"
    )


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
