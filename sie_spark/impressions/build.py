"""The impressions of some dates as one DataFrame: shown items, their labels, and what was known before them."""

from __future__ import annotations

from datetime import date, timedelta

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from sie_spark.impressions import timeline
from sie_spark.impressions.attribution import CLICK, click_delay
from sie_spark.impressions.days import refresh_daily_counts
from sie_spark.impressions.history import INTERNAL, list_history, with_history
from sie_spark.impressions.rates import daily_counts, rate_table, with_rates
from sie_spark.impressions.shown import (
    SESSION,
    accepted,
    list_relative,
    packed,
    says_lists,
    session_or_list,
    sessionised,
    shown,
    unpacked,
    whole_list,
)
from sie_spark.impressions.stale import Reach
from sie_spark.ingest.staging import FOLDER, overwrite
from sie_spark.platform.config.names import has_list_size, remembers
from sie_spark.platform.context import Context
from sie_spark.platform.tables import dates_in

# what attribution, history and list features look at or write
USED = (
    "impression_id",
    "list_id",
    "item_id",
    "event_ts",
    "event_date",
    "seq",
    "position",
    "click",
    "conversion",
    *CLICK,
    SESSION,
)


def build(
    ctx: Context,
    events: DataFrame,
    dates: list[str],
    newest: str | None,
    fingerprint: str,
    *,
    whole: bool = False,
) -> DataFrame:
    """The impressions of ``dates`` (a contiguous stretch gives the same rows as each date alone).

    ``whole``: the table is made anew, and what it holds of earlier dates says nothing.
    """
    dataset = ctx.config.dataset
    settings, history = dataset.impressions, dataset.history
    reach = Reach.of(dataset)
    first, last = date.fromisoformat(dates[0]), date.fromisoformat(dates[-1])
    near = events.where(
        _within(first - timedelta(days=max(reach.forward, reach.clicks)), last + timedelta(days=reach.back))
    )
    if settings.session_gap_minutes is not None:
        near = sessionised(near, settings.session_gap_minutes)
    outcomes = timeline.outcomes_of(settings)
    matched = {name for attribution in outcomes.values() for name in attribution.match}
    carried = sorted(matched & set(events.columns))
    # rows shown after the last date too: a click of theirs is not one of an earlier row; and those shown before
    # the first that were clicked after midnight: a purchase after that click is not one of a later row
    within = _within(first - timedelta(days=reach.clicks), last + timedelta(days=reach.back))
    one_row = timeline.one_row(dataset)
    rows = shown(near.where(within), dataset, sorted({*carried, "event_type"}) if one_row else carried)
    rows = rows.withColumn(SESSION, session_or_list())
    own = F.col("event_date") >= F.lit(dates[0]).cast("date")
    rates = None
    if history.rates:
        held = None if whole else refresh_daily_counts(ctx)
        told = {name: found for name, found in outcomes.items() if name == timeline.CLICK}
        clicked = timeline.labelled(rows, near, told)
        rates = _rates(ctx, accepted(clicked.where(own)), held, dates[0], fingerprint)
    needed = {*USED, *settings.list_relative, *matched, *(f"_m_{name}" for name in [*matched, "event_type"])}
    rows = packed(rows, needed)
    if timeline.fits(dataset):
        rows = timeline.labelled_with_history(rows, near, dataset, within if one_row else None)
    else:
        rows = timeline.labelled(rows, near, outcomes)
        if remembers(dataset):
            rows = with_history(rows, near, history)
    of_lists: dict[str, Column] = {}
    if has_list_size(dataset):
        rows, of_lists = list_relative(rows, settings.list_relative)
    if remembers(dataset):
        at_once = None if says_lists(dataset, events.columns) else whole_list(settings.list_relative)
        of_lists |= list_history(history, at_once)
    if of_lists:
        rows = rows.withColumns(of_lists)
    rows = accepted(unpacked(rows.drop(*INTERNAL)))
    if rates is not None:
        rows = with_rates(rows, rates, history.rates)
    return _finished(rows, ctx, newest).where(dates_in(dates))


def _rates(ctx: Context, rows: DataFrame, held: DataFrame | None, first: str, fingerprint: str) -> DataFrame:
    history = ctx.config.dataset.history
    counts = daily_counts(rows, history.rates)
    start = F.lit(first).cast("date")
    if held is not None:
        earlier = held.where(F.col("event_date") < start)
        known_on = F.greatest("known_on", F.date_sub(start, 1)).alias("known_on")
        sums = earlier.groupBy("which", "value", known_on).agg(
            F.sum("shown").alias("shown"), F.sum("clicked").alias("clicked")
        )
        counts = counts.drop("event_date").unionByName(sums)
    path = ctx.root.path(FOLDER, f"{fingerprint}-repeated")
    table = rate_table(counts, history.rate_strength).where(F.col("day") >= start)
    overwrite(table, path)
    return ctx.spark.read.format("delta").load(path)


def _finished(rows: DataFrame, ctx: Context, newest: str | None) -> DataFrame:
    dataset = ctx.config.dataset
    label = F.col("conversion" if dataset.label == "conversion" else "click")
    group = F.col(dataset.group) if dataset.group else F.lit(None)
    internal = [name for name in rows.columns if name.startswith("_")]
    return rows.withColumns(
        {
            "label_mature": _mature(newest, dataset.final_hours),
            "label": label.cast("float"),
            "click_delay_s": click_delay(rows.columns),
            "group_key": F.coalesce(group.cast("string"), F.col("impression_id")),
        }
    ).drop(*internal)


def _mature(newest: str | None, hours: float) -> Column:
    if newest is None:
        return F.lit(True)
    age = F.unix_micros(F.lit(newest).cast("timestamp")) - F.unix_micros("event_ts")
    return F.coalesce(age >= F.lit(round(hours * 3_600_000_000)), F.lit(True))


def _within(first: date, last: date) -> Column:
    low, high = F.lit(first.isoformat()).cast("date"), F.lit(last.isoformat()).cast("date")
    return (F.col("event_date") >= low) & (F.col("event_date") <= high)
