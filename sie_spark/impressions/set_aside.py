"""Shown items with an outcome that is neither 0 nor 1: many of them stop the run, few go to quarantine."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from sie_spark.impressions.days import Facts
from sie_spark.impressions.shown import outcome_values, rejected, told_outcomes
from sie_spark.ingest.outcomes import Values, mapping, named, reason_of
from sie_spark.ingest.staging import new_by_date
from sie_spark.ingest.tolerance import go_on, part, percent
from sie_spark.platform.catalog import metadata
from sie_spark.platform.context import Context
from sie_spark.platform.errors import DataError
from sie_spark.platform.tables import dates_in, ensure, insert_new

SAMPLE = 200  # rejected rows that examples are taken from
FREQUENT = 20  # values of an outcome that are looked at


def quarantine_rejected(ctx: Context, events: DataFrame, days: Facts, dates: Sequence[str], job: str) -> None:
    """Put the rejected items of these dates into table quarantine, each once.

    Parameters
    ----------
    days:
        facts of each date: ``shown``, ``rejected``.

    Raises
    ------
    DataError
        when they are a larger share of the shown items than ``dataset.tolerate``; nothing was made visible.
    """
    dataset = ctx.config.dataset
    found = _count(days, dates)
    if not found.rejected:
        return
    items = events.where(dates_in(found.where))
    if found.rejected > dataset.tolerate * found.shown:
        texts, kinds = outcome_values(items, dataset)
        values = {name: _frequent(texts, name) for name in kinds}
        said, lines = _unclear(told_outcomes(dataset, events.columns), found, values, kinds)
        raise DataError(
            f"{part(found.rejected, found.shown, 'shown items')} have an outcome that is neither 0 nor 1, more than"
            f" dataset.tolerate ({percent(dataset.tolerate)}) allows: {said}; nothing was made visible",
            remedy=f"say what is meant, {lines}"
            + (f"; or leave them out: {go_on(found.share)}" if found.share < 1 else ""),
        )
    ids = F.sha2(F.concat_ws("\u0001", F.lit("impression"), "impression_id"), 256)
    rows = rejected(items, dataset).select(
        F.substring(ids, 1, 32).alias("record_id"),
        *("event_date", "reasons", "record"),
        F.lit(None).cast("string").alias("unparsed"),
        F.lit("table events").alias("source_file"),
        F.current_timestamp().alias("quarantined_at"),
    )
    name, key = "quarantine", "record_id"
    ensure(ctx.catalog, name, rows.schema, layout=dataset.layout)
    by_id = rows.withColumnRenamed(key, "event_id")
    if new_by_date(ctx.catalog, by_id, name, key=key, where=dates_in(found.where), days=0):
        stamp = metadata(job=job, fingerprint="")
        insert_new(ctx.catalog, rows, name, key=key, dates=found.where, days=0, stamp=stamp)


def cautions(ctx: Context, events: DataFrame, days: Facts, dates: Sequence[str]) -> list[str]:
    """What a reader must know of the items that are not among the impressions of these dates."""
    dataset, found = ctx.config.dataset, _count(days, dates)
    if not found.rejected:
        return []
    rows = rejected(events.where(dates_in(found.where[-1:])), dataset).select("record").limit(SAMPLE)
    records = [json.loads(row[0]) for row in rows.collect()]  # at most SAMPLE
    _, kinds = outcome_values(events, dataset)
    # most rows hold an outcome, or the run would have stopped
    seen = {name: dict.fromkeys([*(record[name] for record in records), "0", "1"]) for name in kinds}
    values = {name: [(value, 0) for value in texts] for name, texts in seen.items()}
    said, lines = _unclear(told_outcomes(dataset, events.columns), found, values, kinds)
    counted = part(found.rejected, found.shown, "shown items")
    return [
        f"{counted} are in quarantine for an outcome that is neither 0 nor 1: {said}. Say what is meant, {lines}."
    ]


@dataclass(frozen=True)
class _Count:
    """Shown and rejected items of some dates, the reasons, and the dates that have rejected ones."""

    shown: int
    rejected: int
    reasons: Mapping[str, int]
    where: list[str]

    @property
    def share(self) -> float:
        return self.rejected / self.shown


def _count(days: Facts, dates: Sequence[str]) -> _Count:
    facts = {day: days[day] for day in dates if day in days}
    counted: Counter[str] = Counter()
    for fact in facts.values():
        counted.update(fact.get("rejected", {}))
    total = counted.pop("", 0)
    where = sorted(day for day, fact in facts.items() if fact.get("rejected"))
    return _Count(sum(fact["shown"] for fact in facts.values()), total, counted, where)


def _unclear(
    told: Mapping[str, str], found: _Count, values: Mapping[str, Values], kinds: Mapping[str, str]
) -> tuple[str, str]:
    """What the outcomes hold beside 0 and 1, in words, and the settings that map it."""
    said, lines = [], []
    for name, sql in told.items():
        if count := found.reasons.get(reason_of(name)):
            said.append(f"'{reason_of(name)}' {count:,} times, where {sql} is {named(values[name])}")
            setting = f"dataset.impressions.{name}"
            lines.append(mapping(setting, sql, values[name], kinds[name], keep=False))
    return "; ".join(said), " and ".join(lines)


def _frequent(texts: DataFrame, name: str) -> Values:
    counted = texts.groupBy(name).count().orderBy(F.desc("count"), name).limit(FREQUENT)
    return [(value, int(count)) for value, count in counted.collect()]  # at most FREQUENT
