"""Labels and history in one shuffle, where every outcome happens in the session of its impression.

Impressions and the session's events are laid on one line, sorted in several ways within their partition. It
gives what :mod:`attribution` and :mod:`history` give one after the other, with a third of the shuffles. An
event that shows an item and is remembered too is one row of that line, not two.
"""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from sie_spark.impressions.attribution import (
    AT,
    BOUGHT,
    FROM,
    NTH,
    Moment,
    check_match,
    clicked_or_shown,
    converted,
    held_column,
    in_window,
    no_clicks,
)
from sie_spark.impressions.attribution import CLICK as CLICKED
from sie_spark.impressions.history import (
    ACTION,
    COUNTED,
    SEQ,
    TYPE,
    action_columns,
    remembered,
    shown_rows,
)
from sie_spark.impressions.shown import SESSION, select_events
from sie_spark.platform.config import Attribution, Dataset, History
from sie_spark.platform.config.names import remembers

CLICK, BUY = "_is_click", "_is_buy"
SHOWN_TYPE = "_m_event_type"  # as ``shown`` carries it
TEXTS = ("item_id", "list_id", "user_id")  # keys that are text on both sides, and need no copy


def fits(dataset: Dataset) -> bool:
    """Whether labels and history can share a shuffle: each attribution matches on the session."""
    settings = dataset.impressions
    found = [a for a in (settings.click_event, settings.conversion_event) if a is not None]
    return (
        dataset.kind == "events"
        and bool(found)
        and all("session_id" in attribution.match for attribution in found)
        and remembers(dataset)
    )


def one_row(dataset: Dataset) -> bool:
    """Whether the event that shows an item is its row, and not a list of several."""
    return fits(dataset) and not dataset.impressions.items


def labelled_with_history(
    rows: DataFrame, events: DataFrame, dataset: Dataset, within: Column | None = None
) -> DataFrame:
    """``click``, ``conversion``, ``conversion_delay_s``, ``hist_*`` for rows that have SESSION.

    Parameters
    ----------
    within:
        where :func:`one_row` holds: which events are among ``rows``; these have their type (SHOWN_TYPE).
    """
    settings, history = dataset.impressions, dataset.history
    outcomes = {CLICK: settings.click_event, BUY: settings.conversion_event}
    keys = sorted({name for a in outcomes.values() if a for name in a.match if name != "session_id"})
    others = [name for name in keys if name not in TEXTS]
    actions = _actions(events, dataset, outcomes, keys, within)
    rows = rows.select("*", *[held_column(rows, name).cast("string").alias(_key(name)) for name in others])
    counted = None
    if within is not None:
        rows = rows.withColumnRenamed(SHOWN_TYPE, TYPE)
        in_session = F.col("session_id").isNotNull()
        counted = F.when(in_session, _counted(history, F.col(TYPE))).otherwise(0)
    left = shown_rows(rows, counted=counted)
    both = left.unionByName(actions, allowMissingColumns=True)
    frame = both.repartition(F.col(SESSION))
    shown_at = ("event_ts", SEQ)
    if settings.click_event is not None:
        frame = _first(frame, settings.click_event, F.col(CLICK), at=shown_at, result=CLICKED)
        frame = frame.withColumn("click", F.col(CLICKED[0]).isNotNull().cast("int"))
    else:
        frame = frame.withColumns(no_clicks())
    if settings.conversion_event is not None:
        can = F.coalesce(F.col("click"), F.lit(1)) == 1
        frame = frame.withColumns(clicked_or_shown(shown_at))
        frame = _first(frame, settings.conversion_event, F.col(BUY), at=FROM, result=BOUGHT, candidate=can)
        frame = frame.withColumns(converted()).drop(*FROM, *BOUGHT)
    else:
        frame = frame.withColumn("conversion_delay_s", F.lit(None).cast("bigint"))
    extra = [CLICK, BUY, *[_key(name) for name in others]]
    return remembered(frame.drop(*extra), history, of_themselves=within is not None)


def _actions(
    events: DataFrame,
    dataset: Dataset,
    outcomes: dict[str, Attribution | None],
    keys: list[str],
    within: Column | None,
) -> DataFrame:
    """Events that are remembered, outcomes, or both; those ``within`` are remembered by the row they show."""
    flags: dict[str, Column] = {}
    for flag, attribution in outcomes.items():
        flags[flag] = F.lit(False)
        if attribution is not None:
            setting = "impressions.click_event" if flag == CLICK else "impressions.conversion_event"
            check_match(events, attribution, setting)
            select_events(events, attribution.event, f"{setting}.event")  # says what is wrong with the SQL
            flags[flag] = F.coalesce(F.expr(attribution.event), F.lit(False))
    counted = _counted(dataset.history, F.col("event_type"))
    if within is not None:
        shown = F.coalesce(F.expr(dataset.impressions.event) & within, F.lit(False))
        counted = F.when(shown, 0).otherwise(counted)
    marked = events.where(F.col("session_id").isNotNull()).withColumns({**flags, COUNTED: counted})
    used = (F.col(COUNTED) == 1) | F.col(CLICK) | F.col(BUY)
    return marked.where(used).select(
        *action_columns(),
        COUNTED,
        CLICK,
        BUY,
        *[F.col(name).cast("string").alias(_key(name)) for name in keys if name != "item_id"],
    )


def _counted(history: History, kind: Column) -> Column:
    types = list(history.counted.values())
    return F.coalesce(kind.isin(types), F.lit(False)).cast("int") if types else F.lit(1)


def _key(name: str) -> str:
    return name if name in TEXTS else f"_k_{name}"


def _first(
    frame: DataFrame,
    settings: Attribution,
    outcome: Column,
    *,
    at: Moment,
    result: Moment,
    candidate: Column | None = None,
) -> DataFrame:
    """The moment of the outcome that directly follows an impression among those of equal keys, in the window."""
    keys = [_key(name) for name in settings.match if name != "session_id"]
    row = F.col(ACTION) == 0
    if candidate is not None:
        row = row & candidate
    known = F.lit(True)
    for key in keys:
        known = known & F.col(key).isNotNull()
    taking_part = known & (row | F.coalesce(outcome, F.lit(False)))
    mark = F.when(
        taking_part, F.struct(F.col(ACTION).alias("side"), F.col(at[0]).alias(AT), F.col(at[1]).alias(NTH))
    )
    ties = f"{ACTION} DESC" if settings.strictly_later else ACTION
    by = ", ".join(f"`{key}`" for key in (SESSION, *keys))
    over = f"(PARTITION BY {by} ORDER BY `{at[0]}`, `{at[1]}`, {ties}, impression_id)"
    frame = frame.withColumn("_mark", mark).withColumn(
        "_next", F.expr(f"lead(_mark) IGNORE NULLS OVER {over}")
    )
    near = (F.col("_next.side") == 1) & in_window(F.col(at[0]), F.col(f"_next.{AT}"), settings)
    found = row & known & near
    moment = {name: F.when(found, F.col("_next")[part]) for name, part in zip(result, (AT, NTH), strict=True)}
    return frame.withColumns(moment).drop("_mark", "_next")
