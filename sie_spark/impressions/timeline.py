"""Lines on which rows find their outcomes: rows and events in one frame, one shuffle.

Where every outcome happens in the session of its impression, history comes from the same line
(:func:`labelled_with_history`): an event that shows an item and is remembered too is one row of it, not two.
Elsewhere rows and outcomes alone are on it (:func:`labelled`), partitioned by what all outcomes match on.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import and_, or_

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from sie_spark.impressions.attribution import (
    ACTION,
    BOUGHT,
    FROM,
    PEOPLE,
    SEQ,
    SHOWN,
    check_match,
    clicked_or_shown,
    converted,
    held_column,
    next_outcome,
    no_clicks,
)
from sie_spark.impressions.attribution import CLICK as CLICKED
from sie_spark.impressions.history import COUNTED, TYPE, action_columns, remembered, shown_rows
from sie_spark.impressions.shown import SESSION, select_events, sequence
from sie_spark.platform.config import Attribution, Dataset, History, Impressions
from sie_spark.platform.config.names import remembers

CLICK, BUY = "_is_click", "_is_buy"
SETTING = {CLICK: "impressions.click_event", BUY: "impressions.conversion_event"}
SHOWN_TYPE = "_m_event_type"  # as ``shown`` carries it
TEXTS = ("item_id", "list_id", "user_id")  # keys that are text on both sides, and need no copy
Outcomes = Mapping[str, Attribution]  # CLICK, BUY: how it finds its row


def outcomes_of(settings: Impressions) -> Outcomes:
    """The outcomes that events of their own tell."""
    found = {CLICK: settings.click_event, BUY: settings.conversion_event}
    return {flag: attribution for flag, attribution in found.items() if attribution is not None}


def fits(dataset: Dataset) -> bool:
    """Whether labels and history can share a shuffle: each attribution matches on the session."""
    found = outcomes_of(dataset.impressions)
    return (
        dataset.kind == "events"
        and bool(found)
        and all("session_id" in attribution.match for attribution in found.values())
        and remembers(dataset)
    )


def one_row(dataset: Dataset) -> bool:
    """Whether the event that shows an item is its row, and not a list of several."""
    return fits(dataset) and not dataset.impressions.items


def labelled(rows: DataFrame, events: DataFrame, outcomes: Outcomes) -> DataFrame:
    """``click``, ``conversion`` and ``conversion_delay_s`` of rows from events, without history.

    Parameters
    ----------
    rows : DataFrame
        Impressions, with ``_m_<name>`` for each match column that they do not have.
    events : DataFrame
        The events near them.
    outcomes : mapping
        The outcomes to look for. ``conversion_delay_s`` is null where purchases are not among them.

    Returns
    -------
    DataFrame
        ``rows`` with the labels, and the moment of the click (CLICKED).
    """
    flags = _flags(events, outcomes)
    if not outcomes:
        return rows.withColumn("conversion_delay_s", _no_delay())
    shared = [name for name in _matched(outcomes) if all(name in one.match for one in outcomes.values())]
    if not set(shared) & set(PEOPLE):  # click and purchase name people in different ways: a line each
        for flag, attribution in outcomes.items():
            rows = labelled(rows, events, {flag: attribution})
        return rows
    passing = None
    if CLICK not in outcomes:  # the few clicked rows are sorted with the purchases, the others pass by
        if CLICKED[0] not in rows.columns:
            rows = rows.withColumns(no_clicks())
        passing = rows.where(~_can_convert())
        passing = passing.withColumns({"conversion": F.lit(0), "conversion_delay_s": _no_delay()})
        rows = rows.where(_can_convert())
    keys = {name: f"_k_{name}" for name in _matched(outcomes)}
    left = rows.withColumns(
        {
            ACTION: F.lit(0),
            SEQ: sequence(),
            # a row without a key is matched by nothing, and must not pile up in one partition
            **{
                key: F.coalesce(_text(held_column(rows, name)), F.concat(F.lit("\u0000"), "impression_id"))
                for name, key in keys.items()
            },
        }
    )
    right = events.withColumns(flags).where(reduce(or_, map(F.col, flags)))
    right = right.select(
        "event_ts",
        sequence().alias(SEQ),
        F.lit(1).alias(ACTION),
        *flags,
        *[_text(F.col(name)).alias(key) for name, key in keys.items()],
    )
    line = left.unionByName(right, allowMissingColumns=True).repartition(*[keys[name] for name in shared])
    found = _labels(line, outcomes, keys).where(F.col(ACTION) == 0).drop(ACTION, SEQ, *flags, *keys.values())
    return found if passing is None else found.unionByName(passing, allowMissingColumns=True)


def labelled_with_history(
    rows: DataFrame, events: DataFrame, dataset: Dataset, within: Column | None = None
) -> DataFrame:
    """``click``, ``conversion``, ``conversion_delay_s``, ``hist_*`` for rows that have SESSION.

    Parameters
    ----------
    within:
        where :func:`one_row` holds: which events are among ``rows``; these have their type (SHOWN_TYPE).
    """
    history, outcomes = dataset.history, outcomes_of(dataset.impressions)
    keys = {name: name if name in TEXTS else f"_k_{name}" for name in _matched(outcomes)}
    keys["session_id"] = SESSION
    copies = {name: key for name, key in keys.items() if key.startswith("_k_")}
    actions = _actions(events, dataset, outcomes, keys, within)
    rows = rows.select("*", *[_text(held_column(rows, name)).alias(key) for name, key in copies.items()])
    counted = None
    if within is not None:
        rows = rows.withColumnRenamed(SHOWN_TYPE, TYPE)
        in_session = F.col("session_id").isNotNull()
        counted = F.when(in_session, _counted(history, F.col(TYPE))).otherwise(0)
    left = shown_rows(rows, counted=counted)
    line = left.unionByName(actions, allowMissingColumns=True).repartition(F.col(SESSION))
    line = _labels(line, outcomes, keys).drop(*outcomes, *copies.values())
    return remembered(line, history, of_themselves=within is not None)


def _labels(line: DataFrame, outcomes: Outcomes, keys: Mapping[str, str]) -> DataFrame:
    """The labels of a line; ``keys`` are its columns for what outcomes match on."""
    if CLICK in outcomes:
        of = outcomes[CLICK]
        by = _ordered(of, keys)
        line = next_outcome(line, of, by, outcome=F.col(CLICK), at=SHOWN, result=CLICKED)
        line = line.withColumn("click", F.col(CLICKED[0]).isNotNull().cast("int"))
    elif CLICKED[0] not in line.columns:
        line = line.withColumns(no_clicks())
    if BUY not in outcomes:
        return line.withColumn("conversion_delay_s", _no_delay())
    of = outcomes[BUY]
    by = _ordered(of, keys)
    line = line.withColumns(clicked_or_shown())
    line = next_outcome(line, of, by, outcome=F.col(BUY), at=FROM, result=BOUGHT, candidate=_can_convert())
    return line.withColumns(converted()).drop(*FROM, *BOUGHT)


def _actions(
    events: DataFrame, dataset: Dataset, outcomes: Outcomes, keys: Mapping[str, str], within: Column | None
) -> DataFrame:
    """Events that are remembered, outcomes, or both; those ``within`` are remembered by the row they show."""
    flags = _flags(events, outcomes)
    counted = _counted(dataset.history, F.col("event_type"))
    if within is not None:
        shown = F.coalesce(F.expr(dataset.impressions.event) & within, F.lit(False))
        counted = F.when(shown, 0).otherwise(counted)
    marked = events.where(F.col("session_id").isNotNull()).withColumns({**flags, COUNTED: counted})
    return marked.where(reduce(or_, map(F.col, flags), F.col(COUNTED) == 1)).select(
        *action_columns(),
        COUNTED,
        *flags,
        *[
            _text(F.col(name)).alias(key)
            for name, key in keys.items()
            if name not in ("item_id", "session_id")
        ],
    )


def _flags(events: DataFrame, outcomes: Outcomes) -> dict[str, Column]:
    """Which events are which outcome: the predicate holds, and the match columns are known."""
    flags: dict[str, Column] = {}
    for flag, attribution in outcomes.items():
        check_match(events, attribution, SETTING[flag])
        select_events(events, attribution.event, f"{SETTING[flag]}.event")  # says what is wrong with the SQL
        there = [F.col(name).isNotNull() for name in attribution.match]
        flags[flag] = reduce(and_, there, F.coalesce(F.expr(attribution.event), F.lit(False)))
    return flags


def _no_delay() -> Column:
    return F.lit(None).cast("bigint")


def _can_convert() -> Column:
    """Only clicked rows can; where clicks are unknown, every row can."""
    return F.coalesce(F.col("click"), F.lit(1)) == 1


def _matched(outcomes: Outcomes) -> list[str]:
    return sorted({name for attribution in outcomes.values() for name in attribution.match})


def _ordered(attribution: Attribution, keys: Mapping[str, str]) -> list[str]:
    """The line's columns to match on, the session first: history is sorted by it too."""
    return [keys[name] for name in sorted(attribution.match, key=lambda name: name != "session_id")]


def _text(value: Column) -> Column:
    return value.cast("string")


def _counted(history: History, kind: Column) -> Column:
    types = list(history.counted.values())
    return F.coalesce(kind.isin(types), F.lit(False)).cast("int") if types else F.lit(1)
