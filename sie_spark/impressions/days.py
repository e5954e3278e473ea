"""What a table says of each of its dates, kept, so that a run reads only the dates that changed since."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from sie_spark.impressions.rates import daily_counts
from sie_spark.impressions.stale import changed_dates
from sie_spark.platform.config.load import digest
from sie_spark.platform.context import Context
from sie_spark.platform.tables import dates_in

Facts = dict[str, Any]  # ISO date: JSON value
POSITIONS = 50  # further down the list counts as one
FORMAT = 4  # of what is kept: facts of another format are counted anew


def facts_by_date(
    ctx: Context, table: str, version: int, measure: Callable[[DataFrame], Facts], *, settings: Any = None
) -> Facts:
    """``measure`` of every date of a table at a version.

    Parameters
    ----------
    measure:
        gives the facts of the dates that are among the rows; called for all rows at first, and where the
        commits since do not say which dates they changed.
    settings:
        what else it depends on (plain data).
    """
    place, made = ("state", f"days-{table}.json"), [FORMAT, ctx.catalog.identity(table), digest([settings])]
    held = ctx.root.read_json(*place) or {}
    if held.get("of") != made or ctx.config.run.force:
        held = {}
    changed = changed_dates(ctx.catalog, table, held["version"], version) if held else None
    rows = ctx.catalog.read(table, version=version)
    if changed is None:
        facts = measure(rows)
    elif changed:
        facts = {day: value for day, value in held["days"].items() if day not in changed}
        facts |= measure(rows.where(dates_in(changed)))
    else:
        facts = held["days"]
    if held.get("version") != version:
        kept = {"of": made, "version": version, "days": facts}
        ctx.root.write_bytes(json.dumps(kept).encode(), *place)
    return facts


def event_facts(events: DataFrame, outcomes: dict[str, str], shown: Column) -> Facts:
    """Of each date the newest event's time (ISO text, or null), the sum of ``shown``, and how many events each
    predicate holds for."""
    counts = [F.count(F.when(F.expr(sql), 1)) for sql in outcomes.values()]
    by_date = events.groupBy("event_date").agg(F.max("event_ts").cast("string"), F.sum(shown), *counts)
    return {
        str(day): {"newest": newest, "shown": int(items), **dict(zip(outcomes, found, strict=True))}
        for day, newest, items, *found in by_date.collect()  # a row a date
    }


def rejected_facts(rejected: DataFrame, reasons: Sequence[str]) -> Facts:
    """Of each date how many rows are rejected (under ""), and for each of the reasons."""
    counts = [F.count(F.when(F.array_contains("reasons", reason), 1)) for reason in reasons]
    by_date = rejected.groupBy("event_date").agg(F.count("*"), *counts)
    return {
        str(day): {name: int(n) for name, n in zip(("", *reasons), found, strict=True) if n}
        for day, *found in by_date.collect()  # a row a date
    }


def label_counts(impressions: DataFrame) -> Facts:
    """Impressions, clicks, conversions and mature labels of each date, by position (0: unknown)."""
    place = F.greatest(F.least(F.coalesce("position", F.lit(0)), F.lit(POSITIONS)), F.lit(0))
    counted = impressions.groupBy("event_date", place.alias("position")).agg(
        F.count("*"), F.sum("click"), F.sum("conversion"), F.sum(F.col("label_mature").cast("int"))
    )
    facts: Facts = {}
    for day, position, *sums in counted.collect():  # a row a date and position
        facts.setdefault(str(day), {})[str(position)] = [int(value or 0) for value in sums]
    return facts


def refresh_daily_counts(ctx: Context) -> DataFrame | None:
    """Bring table ``daily_counts`` to agree with ``impressions``: only dates that changed are counted.

    Returns the table, or None where there are no impressions, or none that have these rates' columns. The
    commit itself says which version it agrees with, so a run killed before it counts those dates again.
    """
    catalog, rates = ctx.catalog, ctx.config.dataset.history.rates
    if not catalog.exists("impressions"):
        return None
    version = catalog.version("impressions")
    impressions = catalog.read("impressions", version=version)
    if not set(rates) <= set(impressions.columns):
        return None
    settings = digest([FORMAT, catalog.identity("impressions"), sorted(rates)])
    agrees, _, made_by = (catalog.fingerprint("daily_counts") or "").partition(":")
    changed = changed_dates(catalog, "impressions", int(agrees), version) if made_by == settings else None
    if changed != []:
        where = None if changed is None else dates_in(changed)
        counts = daily_counts(impressions.where(where) if where else impressions, rates)
        # a task writes a file for every date it holds: gather them
        counts = counts.hint("rebalance", "event_date")
        fingerprint = f"{version}:{settings}"
        catalog.replace(counts, "daily_counts", where=where, fingerprint=fingerprint, job="impressions")
    return catalog.read("daily_counts")
