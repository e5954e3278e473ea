"""What a session did strictly before it was shown an item, by (event_ts, seq); ties do not count.

Shown items and the session's earlier actions are sorted together, one shuffle by session. At an equal
(event_ts, seq) a shown item sorts before an action, so that neither the click on the list itself nor
anything tied with it is seen. Where the event that shows an item is remembered itself, one row can be both:
then every row takes what was known to the first of those tied with it.
"""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame, Window, WindowSpec
from pyspark.sql import functions as F

from sie_spark.impressions.attribution import ACTION, SEQ, seconds_between
from sie_spark.impressions.shown import LIST, SESSION, sequence
from sie_spark.platform.config import History
from sie_spark.platform.config.names import (
    EVENTS,
    LAST_DISTANCE,
    LAST_IS_ITEM,
    LIST_EVENTS,
    LIST_SHARE,
    RECENT,
    SESSION_EVENTS,
    SINCE,
)

COUNTED, TYPE, LAST = "_counted", "_type", "_last_item"
INTERNAL = (ACTION, COUNTED, TYPE, SEQ, LAST)


def with_history(rows: DataFrame, events: DataFrame, settings: History) -> DataFrame:
    """Add the ``hist_*`` columns (bigint counts) and ``recent_items``; :func:`list_history` comes last.

    ``rows`` needs SESSION, item_id, event_ts, seq, list_id, position. ``events`` may begin earlier.
    """
    actions = events.where(F.col("session_id").isNotNull())
    if settings.types:
        actions = actions.where(F.col("event_type").isin(list(settings.counted.values())))
    both = shown_rows(rows).unionByName(
        actions.select(*action_columns(), F.lit(1).alias(COUNTED)), allowMissingColumns=True
    )
    return remembered(both, settings)


def shown_rows(rows: DataFrame, *, counted: Column | None = None) -> DataFrame:
    """Impressions as they are sorted among actions; ``counted``: 1 where they are actions themselves."""
    return rows.withColumns(
        {ACTION: F.lit(0), COUNTED: F.lit(0) if counted is None else counted, SEQ: sequence()}
    )


def action_columns() -> list[Column]:
    """What of an event takes part in a session's history."""
    return [
        F.col("session_id").alias(SESSION),
        F.col("item_id"),
        F.col("event_ts"),
        sequence().alias(SEQ),
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
    if not (settings.recent_items or settings.session):
        return both
    before = _before((SESSION,), ("item_id",) if of_themselves else (ACTION, "item_id"), of_themselves)
    counted = F.col(COUNTED) == 1
    columns: dict[str, Column] = {}
    if settings.recent_items:
        # the list is made once an action on an item, and each shown item takes over the newest
        on_item = counted & F.col("item_id").isNotNull()
        own = Window.partitionBy(SESSION, on_item).orderBy("event_ts", SEQ, "item_id")
        last = F.collect_list("item_id").over(own.rowsBetween(1 - settings.recent_items, 0))
        listed = F.when(on_item, F.reverse(last))
        # partition by session first, for the sake of the shuffle
        both = both.repartition(F.col(SESSION)).withColumn("_recent", listed)
        columns[RECENT] = F.last("_recent", ignorenulls=True).over(before)
    if settings.session:
        columns[LAST] = F.last(F.when(counted, F.col("item_id")), ignorenulls=True).over(before)
    if settings.session or of_themselves:
        columns[SESSION_EVENTS] = F.count(F.when(counted, 1)).over(before)
    frame = both.withColumns(columns).drop("_recent")
    if of_themselves:
        frame = _as_of_first(frame, list(columns), (SESSION,), seen=SESSION_EVENTS)
    if settings.recent_items:
        frame = frame.withColumn(RECENT, F.coalesce(RECENT, F.array().cast("array<string>")))
    return frame if settings.session else frame.drop(SESSION_EVENTS)


def _by_item(both: DataFrame, settings: History, *, of_themselves: bool) -> DataFrame:
    if not settings.types:
        return both
    before = _before((SESSION, "item_id"), (ACTION,), of_themselves)
    counted = (F.col(COUNTED) == 1) & F.col("item_id").isNotNull()  # what has no item has no history of it
    columns: dict[str, Column] = {EVENTS: F.count(F.when(counted, 1)).over(before)}
    for name, one in settings.counted.items():
        columns[name] = F.count(F.when(counted & (F.col(TYPE) == one), 1)).over(before)
    columns["_acted"] = F.last(F.when(counted, F.col("event_ts")), ignorenulls=True).over(before)
    frame = both.withColumns(columns)
    if of_themselves:
        frame = _as_of_first(frame, list(columns), (SESSION, "item_id"), seen=EVENTS)
    return frame.withColumn(SINCE, seconds_between(F.col("_acted"), F.col("event_ts"))).drop("_acted")


def _before(keys: Sequence[str], ties: Sequence[str], of_themselves: bool) -> WindowSpec:
    """The rows up to this one, itself left out where it may be an action."""
    order = Window.partitionBy(*keys).orderBy("event_ts", SEQ, *ties)
    return order.rowsBetween(Window.unboundedPreceding, -1 if of_themselves else 0)


def _as_of_first(frame: DataFrame, names: Sequence[str], keys: Sequence[str], *, seen: str) -> DataFrame:
    """What was known before all rows of one (event_ts, seq): what the row knew that had ``seen`` least.

    It needs no other sort than :func:`_before`, and does not depend on the order of tied rows.
    """
    tied = Window.partitionBy(*keys, "event_ts", SEQ)
    first = frame.withColumn("_first", F.min_by(F.struct(*names), seen).over(tied))
    return first.withColumns({name: F.col("_first")[name] for name in names}).drop("_first")


def list_history(settings: History, at_once: WindowSpec | None) -> dict[str, Column]:
    """What the history of its items says of a list (bigint, double, int places).

    Parameters
    ----------
    at_once:
        the whole list, where all of it is shown at one moment. Where it is not (None), a row sums over the rows
        shown by its time: what happened before the others' would lie in its future.
    """
    columns: dict[str, Column] = {}
    lists = Window.partitionBy(*LIST)
    if settings.types:
        total = F.sum(EVENTS).over(at_once or lists.orderBy("event_ts"))  # rows of one time together
        columns[LIST_EVENTS] = total
        columns[LIST_SHARE] = F.when(total > 0, F.col(EVENTS) / total).otherwise(F.lit(0.0))
    if settings.session:
        is_last = F.coalesce(F.col("item_id") == F.col(LAST), F.lit(False))
        columns[LAST_IS_ITEM] = is_last.cast("int")
        place = F.max(F.when(is_last, F.col("position"))).over(at_once or Window.partitionBy(*LIST, LAST))
        columns[LAST_DISTANCE] = F.col("position") - place
    return columns
