"""A later event finds the row it belongs to: a click its impression, a purchase its click."""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from sie_spark.impressions.shown import select_events, sequence
from sie_spark.platform.config import Attribution
from sie_spark.platform.errors import ConfigError

Moment = tuple[str, str]  # columns: a time, and the number that orders events of that time
IMPRESSION: Moment = ("event_ts", "seq")
CLICK: Moment = ("_click_ts", "_click_seq")
FROM: Moment = ("_from_ts", "_from_seq")
BOUGHT: Moment = ("_bought_ts", "_bought_seq")
PEOPLE = ("user_id", "session_id", "list_id")
SIDE, AT, NTH, NEXT = "_side", "_at", "_nth", "_next"


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


def outcomes_of(events: DataFrame, settings: Attribution, setting: str) -> DataFrame:
    """Outcome events: the match columns and their time."""
    check_match(events, settings, setting)
    chosen = select_events(events, settings.event, f"{setting}.event")
    there = [F.col(name).isNotNull() for name in settings.match]
    condition = there[0]
    for test in there[1:]:
        condition = condition & test
    return chosen.where(condition).select(
        *settings.match, F.col("event_ts").alias(AT), F.col("seq").alias(NTH)
    )


def attribute(
    rows: DataFrame, outcomes: DataFrame, settings: Attribution, *, at: Moment, result: Moment
) -> DataFrame:
    """Give each row the moment of the first outcome that belongs to it.

    An outcome belongs to the latest row before it (or at the same moment) with equal match columns, within
    the window. One shuffle and no join: rows and outcomes are sorted together, and a row's outcome is what
    follows it directly.

    Example: rows at 1 and 5, outcomes at 6 and 7, window 3 -> the row at 1 gets null, the row at 5 gets 6.

    Parameters
    ----------
    at:
        columns of ``rows`` with the time from which the window runs and the number that orders equal times.
    result:
        names of the two new columns.
    """
    keys = [f"_k{index}" for index in range(len(settings.match))]
    held = {name: held_column(rows, name) for name in settings.match}
    left = rows.select(
        "*",
        # a row without a key is matched by nothing, and must not pile up in one partition
        *[
            F.coalesce(held[name].cast("string"), F.concat(F.lit("\u0000"), F.col("impression_id"))).alias(
                key
            )
            for key, name in zip(keys, settings.match, strict=True)
        ],
        F.col(at[0]).alias(AT),
        F.col(at[1]).alias(NTH),
        F.lit(0).alias(SIDE),
    )
    right = outcomes.select(
        *[F.col(name).cast("string").alias(key) for key, name in zip(keys, settings.match, strict=True)],
        AT,
        NTH,
        F.lit(1).alias(SIDE),
    )
    tie = F.desc(SIDE) if settings.strictly_later else F.asc(SIDE)
    order = Window.partitionBy(*keys).orderBy(AT, sequence(NTH), tie, "impression_id")
    following = F.lead(F.struct(SIDE, AT, NTH)).over(order)
    united = left.unionByName(right, allowMissingColumns=True).withColumn(NEXT, following)
    near = (F.col(f"{NEXT}.{SIDE}") == 1) & in_window(F.col(AT), F.col(f"{NEXT}.{AT}"), settings)
    moment = {name: F.when(near, F.col(NEXT)[part]) for name, part in zip(result, (AT, NTH), strict=True)}
    return united.where(F.col(SIDE) == 0).withColumns(moment).select(*rows.columns, *result)


def clicks(rows: DataFrame, events: DataFrame, settings: Attribution) -> DataFrame:
    """``click`` from click events; adds CLICK."""
    found = attribute(
        rows,
        outcomes_of(events, settings, "impressions.click_event"),
        settings,
        at=IMPRESSION,
        result=CLICK,
    )
    return found.withColumn("click", F.col(CLICK[0]).isNotNull().cast("int"))


def conversions(rows: DataFrame, events: DataFrame, settings: Attribution) -> DataFrame:
    """``conversion`` (0 or 1) and ``conversion_delay_s`` (from the click) from purchase events.

    Only clicked rows can convert; where clicks are unknown, every row can. The few clicked rows are sorted
    with the purchases, the others pass by.
    """
    outcomes = outcomes_of(events, settings, "impressions.conversion_event")
    can = F.coalesce(F.col("click"), F.lit(1)) == 1
    rows = rows.withColumns(clicked_or_shown())
    found = attribute(rows.where(can), outcomes, settings, at=FROM, result=BOUGHT)
    both = found.unionByName(rows.where(~can), allowMissingColumns=True)
    return both.withColumns(converted()).drop(*FROM, *BOUGHT)


def no_clicks() -> dict[str, Column]:
    """CLICK where no event tells of clicks."""
    return {name: F.lit(None).cast(kind) for name, kind in zip(CLICK, ("timestamp", "bigint"), strict=True)}


def clicked_or_shown(shown: Moment = IMPRESSION) -> dict[str, Column]:
    """The moment from which a purchase may follow: the click's, or the row's own where no click is known."""
    known = F.col(CLICK[0]).isNotNull()
    return {
        name: F.when(known, F.col(click)).otherwise(F.col(own))
        for name, click, own in zip(FROM, CLICK, shown, strict=True)
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
