"""A later event finds the row it belongs to: a click its impression, a purchase its click.

:func:`next_outcome` is the only way in which one is found. It works on a line: rows and events in one frame, which
:mod:`timeline` lays.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import and_

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from sie_spark.platform.config import Attribution
from sie_spark.platform.errors import ConfigError

Moment = tuple[str, str]  # columns: a time, and the number that orders events of that time
CLICK: Moment = ("_click_ts", "_click_seq")
FROM: Moment = ("_from_ts", "_from_seq")
BOUGHT: Moment = ("_bought_ts", "_bought_seq")
PEOPLE = ("user_id", "session_id", "list_id")
ACTION = "_action"  # of a line: 0 for a row, 1 for an event
SEQ = "_seq"  # of a line: seq, and 0 where there is none
SHOWN: Moment = ("event_ts", SEQ)


def check_match(events: DataFrame, settings: Attribution, setting: str) -> None:
    """Raise :class:`ConfigError` for unknown match columns, or ones that would join everybody's events."""
    for name in settings.match:
        if name not in events.columns:
            raise ConfigError(
                f"{setting}.match: no event column '{name}'",
                remedy=f"columns of events: {', '.join(events.columns)}",
            )
    if not set(settings.match) & set(PEOPLE):
        raise ConfigError(
            f"{setting}.match: {settings.match} would join everybody's events",
            remedy=f"add one of {', '.join(PEOPLE)}",
        )


def next_outcome(
    line: DataFrame,
    settings: Attribution,
    keys: Sequence[str],
    *,
    outcome: Column,
    at: Moment,
    result: Moment,
    candidate: Column | None = None,
) -> DataFrame:
    """Give each row the moment of the first outcome that belongs to it.

    An outcome belongs to the latest row before it (or at the same moment) with equal keys, within the window:
    it is what directly follows that row, among rows and outcomes alone. Of rows of one moment it belongs to
    the last by impression_id. Neither a row nor an outcome without a key takes part.

    Example: rows at 1 and 5, outcomes at 6 and 7, window 3 -> the row at 1 gets null, the row at 5 gets 6.

    Parameters
    ----------
    line : DataFrame
        Rows (ACTION is 0) and events (ACTION is 1) together, with ``impression_id``.
    settings : Attribution
        Gives the window, and whether an event at the row's own moment counts.
    keys : sequence of str
        Columns of ``line`` that are equal for a row and its outcome. Where ``line`` is partitioned by some of
        them, it is sorted and not shuffled.
    outcome : Column
        Which events are outcomes; null counts as false.
    at : tuple of str
        Columns with the time from which the window runs, and the number that orders equal times; never null.
        Events have them too.
    result : tuple of str
        Names of the two new columns: the outcome's ``at``, or null.
    candidate : Column, optional
        Which rows may have an outcome; the others do not take part. All of them by default.

    Returns
    -------
    DataFrame
        ``line`` with two more columns.
    """
    row = F.col(ACTION) == 0
    if candidate is not None:
        row = row & candidate
    known = reduce(and_, [F.col(key).isNotNull() for key in keys])
    taking_part = known & (row | ((F.col(ACTION) == 1) & F.coalesce(outcome, F.lit(False))))
    mark = F.struct(F.col(ACTION).alias("side"), F.col(at[0]).alias("at"), F.col(at[1]).alias("nth"))
    ties = f"{ACTION} DESC" if settings.strictly_later else ACTION
    by = ", ".join(f"`{key}`" for key in keys)
    over = f"(PARTITION BY {by} ORDER BY `{at[0]}`, `{at[1]}`, {ties}, impression_id)"
    following = F.expr(f"lead(_mark) IGNORE NULLS OVER {over}")
    line = line.withColumn("_mark", F.when(taking_part, mark)).withColumn("_next", following)
    near = (F.col("_next.side") == 1) & in_window(F.col(at[0]), F.col("_next.at"), settings)
    found = row & known & near
    moment = {
        name: F.when(found, F.col("_next")[part]) for name, part in zip(result, ("at", "nth"), strict=True)
    }
    return line.withColumns(moment).drop("_mark", "_next")


def no_clicks() -> dict[str, Column]:
    """CLICK where no event tells of clicks."""
    return {name: F.lit(None).cast(kind) for name, kind in zip(CLICK, ("timestamp", "bigint"), strict=True)}


def clicked_or_shown() -> dict[str, Column]:
    """The moment from which a purchase may follow: the click's, or the row's own where no click is known."""
    known = F.col(CLICK[0]).isNotNull()
    return {
        name: F.when(known, F.col(click)).otherwise(F.col(own))
        for name, click, own in zip(FROM, CLICK, SHOWN, strict=True)
    }


def converted() -> dict[str, Column]:
    """``conversion`` and ``conversion_delay_s`` of rows that have FROM and BOUGHT."""
    bought = F.col(BOUGHT[0])
    delay = seconds_between(F.col(FROM[0]), bought)
    return {"conversion": bought.isNotNull().cast("int"), "conversion_delay_s": delay}


def in_window(first: Column, second: Column, settings: Attribution) -> Column:
    """Whether the second time lies at most the attribution's window after the first, to the microsecond."""
    micros = F.lit(round(settings.window_hours * 3_600_000_000))
    return F.unix_micros(second) - F.unix_micros(first) <= micros


def seconds_between(first: Column, second: Column) -> Column:
    """Whole seconds from one timestamp to another, bigint."""
    return F.floor((F.unix_micros(second) - F.unix_micros(first)) / F.lit(1_000_000)).cast("bigint")


def click_delay(columns: Sequence[str]) -> Column:
    """Whole seconds from an impression to its click, of rows in the making or of impressions; null if unknown."""
    if CLICK[0] in columns:
        return seconds_between(F.col("event_ts"), F.col(CLICK[0]))
    return F.col("click_delay_s") if "click_delay_s" in columns else F.lit(None).cast("bigint")


def held_column(rows: DataFrame, name: str) -> Column:
    """Where impressions keep an event column that is matched on."""
    return F.col(name if name in rows.columns else f"_m_{name}")
