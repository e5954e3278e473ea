"""Which dates of ``impressions`` no longer agree with ``events``."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from sie_spark.platform.catalog import MAINTENANCE, Catalog, stamp_of
from sie_spark.platform.config import Dataset
from sie_spark.sources.drift import AS_JSON


@dataclass(frozen=True)
class Reach:
    """How far an event's influence goes, in days: back to what it labels, forward to what remembers it."""

    back: int
    forward: int
    forever: bool = False  # rates as of the day before remember everything
    clicks: int = 0  # how long before a date a row can be shown whose click, on that date, takes a purchase

    @classmethod
    def of(cls, dataset: Dataset) -> Reach:
        """The reach of a data set's attribution windows, sessions and rates."""
        impressions, history = dataset.impressions, dataset.history
        windows = [a.window_hours for a in (impressions.click_event, impressions.conversion_event) if a]
        remembers = history.types or history.session or history.recent_items
        sessions = (remembers and dataset.kind != "tabular") or impressions.session_gap_minutes is not None
        return cls(
            math.ceil(sum(windows) / 24.0),  # a purchase after a click after an impression
            history.session_days if sessions else 0,
            bool(history.rates),
            math.ceil(windows[0] / 24.0) if len(windows) == 2 else 0,
        )


def changed_dates(catalog: Catalog, name: str, after: int, upto: int) -> list[str] | None:
    """Dates that the commits (after, upto] of a table touched; None when a commit does not say.

    None too for ``after > upto``: the table was made anew.
    """
    if after == upto:
        return []
    history = catalog.spark.sql(f"DESCRIBE HISTORY {catalog.sql_name(name)}")
    rows = history.where((F.col("version") > after) & (F.col("version") <= upto)).select(
        "version", "operation", "userMetadata"
    )
    found: set[str] = set()
    seen = 0
    for _, operation, text in rows.collect():  # one row a commit
        seen += 1
        if operation in MAINTENANCE:
            continue
        dates = stamp_of(text).get("dates")
        if dates is None:
            return None
        found |= set(json.loads(dates))
    return sorted(found) if seen == upto - after else None


def affected(changed: Iterable[str], have: Iterable[str], reach: Reach) -> list[str]:
    """Dates of ``have`` (those with events) whose impressions a change at ``changed`` can alter."""
    there = sorted(date.fromisoformat(day) for day in have)
    touched = [date.fromisoformat(day) for day in changed]
    stale = set()
    for day in touched:
        first = day - timedelta(days=reach.back)
        last = day + timedelta(days=max(reach.forward, reach.clicks))
        stale |= {other for other in there if first <= other and (reach.forever or other <= last)}
    return [day.isoformat() for day in sorted(stale)]


def maturing(have: Iterable[str], before: str | None, now: str | None, hours: float) -> list[str]:
    """Dates that hold labels which became final when the newest event moved from ``before`` to ``now``.

    Or are not final any more: it goes back where the newest events were a person's who was forgotten.
    """
    if now is None or before == now:
        return []
    earlier, later = sorted((before or "", now))
    days = math.ceil(hours / 24.0)
    first = date.fromisoformat(earlier[:10]) - timedelta(days=days) if earlier else date.min
    last = date.fromisoformat(later[:10])
    return [day for day in have if first <= date.fromisoformat(day) <= last]


def date_digests(frame: DataFrame) -> dict[str, tuple[int, int]]:
    """Rows and an order-free hash of each date's rows: equal digests, equal rows."""
    columns = sorted(frame.columns)
    missing = F.array(*[F.col(name).isNull() for name in columns])  # which the hash passes over
    values = [value for name in columns for value in _hashable(frame, name)]
    hashed = F.xxhash64(missing, *values).cast("decimal(38,0)")
    rows = frame.groupBy("event_date").agg(F.count("*"), F.sum(hashed)).collect()  # a row a date
    return {str(row[0]): (int(row[1]), int(row[2])) for row in rows}


def _hashable(frame: DataFrame, name: str) -> list[Column]:
    """A column, or its text where a hash of its type is none, or passes over nulls in it."""
    kind = frame.schema[name].dataType.simpleString()
    text = F.to_json(F.struct(name), {**AS_JSON, "ignoreNullFields": "false"})
    if any(word in kind for word in ("map<", "variant", "struct<", "array<array<")):
        return [text]
    if kind.startswith("array<"):
        return [F.col(name), F.when(F.exists(name, lambda value: value.isNull()), text)]
    return [F.col(name)]
