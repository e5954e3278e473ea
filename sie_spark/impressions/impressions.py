"""Events become ``impressions``: one shown item a row, with its labels and what was known before it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from sie_spark.impressions.build import build
from sie_spark.impressions.days import (
    Facts,
    event_facts,
    facts_by_date,
    label_counts,
    refresh_daily_counts,
    rejected_facts,
)
from sie_spark.impressions.set_aside import cautions, quarantine_rejected
from sie_spark.impressions.shown import items_shown, rejected, select_events, shown, told_outcomes
from sie_spark.impressions.stale import Reach, affected, changed_dates, date_digests, maturing
from sie_spark.ingest.outcomes import reason_of
from sie_spark.ingest.staging import FOLDER, clear, overwrite
from sie_spark.platform.catalog import metadata
from sie_spark.platform.code import code_digest
from sie_spark.platform.config import Dataset
from sie_spark.platform.config.load import digest
from sie_spark.platform.config.names import check_names, context_of
from sie_spark.platform.context import Context
from sie_spark.platform.errors import ConfigError, DataError, RowIdentityError
from sie_spark.platform.result import Rows, StageResult, TableRef
from sie_spark.platform.tables import (
    EXPRESSIONS,
    dates_in,
    replace_rows,
    session_settings,
)

JOB = "impressions"
SETTINGS = ("kind", "impressions", "history", "maturity_hours", "group", "label")

CODE = ("sie_spark.impressions", "sie_spark.ingest.outcomes", "sie_spark.platform.config.names")


def run(ctx: Context) -> StageResult:
    """Bring ``impressions`` up to date with ``events``: all dates at first, later only those that changed.

    Raises
    ------
    StageOrderError
        when nothing was ingested.
    ConfigError
        for an expression or a column that does not fit the events.
    DataError
        when no event shows an item, or too many have an outcome that is neither 0 nor 1.
    RowIdentityError
        when impressions and rejected items are not the shown ones.
    """
    catalog = ctx.catalog
    source = catalog.ref("events")
    version, table = source.version, catalog.identity("events")
    events = catalog.read("events", version=version)
    check_names(ctx.config.dataset, events.columns)
    mapping = settings_digest(ctx.config.dataset, events.columns)
    fingerprint = ctx.fingerprint(
        JOB, code=(), mapping=mapping, table=table, events=version, dates=_asked(ctx)
    )
    done = ctx.finished(JOB, fingerprint) if catalog.exists("impressions") else None
    if done is not None:
        return _result(ctx, source, done, skipped=True)
    state = ctx.root.read_json("state", f"{JOB}.json") or {}
    _check_asked(ctx, mapping, state)
    with session_settings(ctx.spark, EXPRESSIONS):
        outcomes = _outcomes(ctx.config.dataset, events)
        days = _facts(ctx, events, version, outcomes)
        have = sorted(days)
        newest = max(filter(None, (day["newest"] for day in days.values())), default=None)
        if not have:
            raise DataError(
                "table events holds no row: nothing was ingested but rejected records",
                remedy="look at table quarantine: every row says why it was rejected",
            )
        if not _restrict(ctx, have) and not catalog.exists("impressions"):
            raise DataError(
                f"none of the {len(have)} date(s) of table events ({have[0]} to {have[-1]}) lies in the asked dates",
                remedy="check run.date_from and run.date_to",
            )
        now = {"mapping": mapping, "table": table, "events": version, "newest": newest}
        stale = _stale(ctx, state, now, have)
        _warn_of_rates(ctx, have)
        chosen = _restrict(ctx, have if stale is None else stale)
        quarantine_rejected(ctx, events, days, chosen, JOB)
        dates = _written(ctx, chosen, events, now, fingerprint, everything=stale is None)
        if ctx.config.dataset.history.rates:
            refresh_daily_counts(ctx)
        counted = facts_by_date(ctx, "impressions", catalog.version("impressions"), label_counts)
        _check_identity(days, counted, chosen)
        said = cautions(ctx, events, days, list(counted))
    sent = {name: sum(day[name] for day in days.values()) for name in outcomes}
    details = {
        **_totals(counted),
        "rejected": sum(_rejected(days, day) for day in counted),
        "dates_rebuilt": dates,
        "outcome_events": sent,
        "cautions": said,
    }
    _say_outcomes(ctx, details)
    left = sorted(set(stale if stale is not None else have) - set(_restrict(ctx, have)))
    if left and stale is not None:
        ctx.progress.warn(
            f"{len(left)} date(s) outside the asked ones may differ now, {left[0]} to {left[-1]}: run without"
            " run.date_from and run.date_to to bring them up to date"
        )
    if not left:
        ctx.root.write_bytes(json.dumps(now, sort_keys=True).encode(), "state", f"{JOB}.json")
    clear(ctx.root, fingerprint)
    ctx.save_details(JOB, details, fingerprint=None if left else fingerprint)
    return _result(ctx, source, details)


def _outcomes(dataset: Dataset, events: DataFrame) -> dict[str, str]:
    """What labels are attributed from: a predicate over events for clicks, one for conversions."""
    settings = dataset.impressions
    found = {"click": settings.click_event, "conversion": settings.conversion_event}
    for name, attribution in found.items():
        if attribution is not None:
            select_events(events, attribution.event, f"impressions.{name}_event.event")
    return {name: attribution.event for name, attribution in found.items() if attribution is not None}


def _facts(ctx: Context, events: DataFrame, version: int, outcomes: dict[str, str]) -> Facts:
    """Of each date: newest event, shown items, the rejected ones among them, events of each outcome."""
    dataset = ctx.config.dataset
    shown(events, dataset, [])  # says what is wrong with the SQL
    told, settings = told_outcomes(dataset, events.columns), dataset.impressions

    def measure(rows: DataFrame) -> Facts:
        if settings.session_gap_minutes is not None:  # whoever is known will have a session
            rows = rows.withColumn("session_id", F.col("user_id"))
        facts = event_facts(rows, outcomes, items_shown(dataset))
        if told:
            wrong = rejected_facts(rejected(rows, dataset), [reason_of(name) for name in told])
            for day, counts in wrong.items():
                facts[day]["rejected"] = counts
        return facts

    asked = [outcomes, told, settings.event, settings.items, settings.parallel, settings.session_gap_minutes]
    return facts_by_date(ctx, "events", version, measure, settings=asked)


def _rejected(days: Facts, day: str) -> int:
    return int(days.get(day, {}).get("rejected", {}).get("", 0))


def _check_identity(days: Facts, counted: Facts, dates: list[str]) -> None:
    """Every shown item of these dates is an impression or was rejected."""
    for day in dates:
        made = sum(counts[0] for counts in counted.get(day, {}).values())
        if made + _rejected(days, day) != days[day]["shown"]:
            raise RowIdentityError(
                f"{day}: {days[day]['shown']:,} shown items, but {made:,} impressions and {_rejected(days, day):,}"
                " rejected ones",
                remedy="this is a defect: please report it with the data set's YAML",
            )


def _say_outcomes(ctx: Context, details: dict[str, Any]) -> None:
    for name, sent in details["outcome_events"].items():
        found = details[f"{name}s"]
        if sent and not found:
            setting = f"dataset.impressions.{name}_event"
            ctx.progress.warn(
                f"none of {sent:,} {name} events belongs to an impression: check {setting}.match and .window_hours,"
                " and dataset.impressions.list_id"
            )
        else:
            ctx.progress.say(f"{found:,} impressions with a {name}, of {sent:,} {name} events")


def _warn_of_rates(ctx: Context, have: list[str]) -> None:
    chosen = _restrict(ctx, have)
    before = [day for day in have if chosen and day < chosen[0]]
    if ctx.config.dataset.history.rates and before and not ctx.catalog.exists("impressions"):
        ctx.progress.warn(
            f"rates as of the day before start from nothing on {chosen[0]}: {len(before)} earlier date(s) of events"
            " have no impressions yet; build those first (an earlier run.date_from, or none)"
        )


def _taken(dataset: Dataset, columns: Sequence[str]) -> list[str]:
    """The event columns that decide which columns impressions have, and what their labels, places and lists are."""
    used = (*context_of(dataset, columns), "click", "conversion", "position", "list_id")
    return [name for name in columns if name in used]


def settings_digest(dataset: Dataset, columns: Sequence[str]) -> str:
    """What impressions depend on beside the rows of events: settings, code, and which of these columns are taken."""
    options = dataset.options()
    chosen = {name: options[name] for name in SETTINGS}
    return digest({**chosen, "code": code_digest(*CODE), "taken": _taken(dataset, columns)})


def _check_asked(ctx: Context, mapping: str, state: dict[str, Any]) -> None:
    """Some dates made anew beside others of other settings would be one table of two meanings.

    The table's own commits say what made it, whatever was killed after them; the state does where they are gone.
    """
    if not any(_asked(ctx)) or not ctx.catalog.exists("impressions"):
        return
    if (ctx.catalog.said("impressions", "mapping") or state.get("mapping", mapping)) != mapping:
        raise ConfigError(
            f"the settings that impressions are made by ({', '.join(SETTINGS)}, or the columns they take over), or how"
            " this version makes them, changed since table impressions was made: run.date_from and run.date_to would leave its other dates as they were",
            remedy="leave out the dates: all of them are made anew",
        )


def _written(
    ctx: Context,
    dates: list[str],
    events: DataFrame,
    now: dict[str, Any],
    fingerprint: str,
    *,
    everything: bool,
) -> list[str]:
    """Build and replace the dates; of single dates only those whose rows differ. Returns what was replaced."""
    if not dates:
        return []
    whole = everything and not (ctx.config.run.date_from or ctx.config.run.date_to)
    frame = build(ctx, events, dates, now["newest"], fingerprint, whole=whole)
    stamp = {"fingerprint": fingerprint, "mapping": now["mapping"]}
    if everything:
        _replace(ctx, frame, dates, stamp, whole=whole)
        return dates
    path = ctx.root.path(FOLDER, fingerprint)
    overwrite(frame, path)
    staged = ctx.spark.read.format("delta").load(path)
    held = ctx.catalog.read("impressions").where(dates_in(dates))
    new, old = date_digests(staged), date_digests(held.select(*staged.columns))
    differ = sorted(day for day in dates if new.get(day) != old.get(day))
    if differ:
        _replace(ctx, staged.where(dates_in(differ)), differ, stamp, whole=False)
    ctx.progress.say(f"dates looked at: {len(dates)}, changed: {', '.join(differ) or 'none'}")
    return differ


def _replace(ctx: Context, frame: DataFrame, dates: list[str], stamp: dict[str, str], *, whole: bool) -> None:
    layout = ctx.config.dataset.layout
    if len(dates) > 1 and layout == "partition":
        # a task writes a file for every date it holds: gather them, in files of the size AQE advises
        frame = frame.hint("rebalance", "event_date")
    # a whole table anew names no dates: those that it had before may be gone
    said = {} if whole else {"dates": json.dumps(dates)}
    commit = metadata(job=JOB, **stamp, **said)
    replace_rows(
        ctx.catalog, frame, "impressions", layout=layout, dates=None if whole else dates, stamp=commit
    )


def _stale(ctx: Context, state: dict[str, Any], now: dict[str, Any], have: list[str]) -> list[str] | None:
    """Dates to rebuild, or None for all of them."""
    rebuild = ctx.config.run.force or not ctx.catalog.exists("impressions")
    if rebuild or any(state.get(name) != now[name] for name in ("mapping", "table")):
        return None
    changed = changed_dates(ctx.catalog, "events", int(state["events"]), now["events"])
    if changed is None:
        return None
    dataset = ctx.config.dataset
    stale = set(affected(changed, have, Reach.of(dataset)))
    stale |= set(maturing(have, state.get("newest"), now["newest"], dataset.final_hours))
    return sorted(stale)


def _totals(counted: Facts) -> dict[str, Any]:
    """What the report says of the impressions."""
    by_date: dict[str, list[int]] = {}
    by_position: dict[int, list[int]] = {}
    for day, positions in counted.items():
        for position, counts in positions.items():
            for sums in (by_date.setdefault(day, [0] * 4), by_position.setdefault(int(position), [0] * 4)):
                sums[:] = [have + value for have, value in zip(sums, counts, strict=True)]
    names = ("impressions", "clicks", "conversions", "mature")
    total = [sum(row[index] for row in by_date.values()) for index in range(4)]
    if not total[0]:
        raise DataError(
            "no event shows an item: table impressions would be empty",
            remedy="check dataset.impressions.event and .items against the events table",
        )
    return {
        **dict(zip(names, total, strict=True)),
        "by_date": [
            {"date": key, **dict(zip(names, row, strict=True))} for key, row in sorted(by_date.items())
        ],
        "by_position": [
            {"position": key, **dict(zip(names, row, strict=True))}
            for key, row in sorted(by_position.items())
        ],
    }


def _result(ctx: Context, source: TableRef, details: dict[str, Any], *, skipped: bool = False) -> StageResult:
    names = ("impressions", "clicks", "conversions")
    metrics = {name: float(details[name]) for name in names if name in details}
    metrics |= {f"{name}_events": float(sent) for name, sent in details.get("outcome_events", {}).items()}
    if metrics.get("impressions"):
        metrics["click_rate"] = metrics["clicks"] / metrics["impressions"]
    kept, out = details.get("impressions", 0), details.get("rejected", 0)
    rows = Rows(read=kept + out, kept=kept, quarantined=out)
    made = ["impressions", *(["daily_counts"] if ctx.config.dataset.history.rates else [])]
    made += ["quarantine"] if out else []
    outputs = {name: ctx.catalog.ref(name) for name in made}
    inputs = {"events": source}
    return StageResult(
        inputs=inputs, outputs=outputs, rows=rows, metrics=metrics, details=details, skipped=skipped
    )


def _asked(ctx: Context) -> tuple[str | None, str | None]:
    return ctx.config.run.date_from, ctx.config.run.date_to


def _restrict(ctx: Context, dates: list[str]) -> list[str]:
    first, last = _asked(ctx)
    return [day for day in dates if (not first or day >= first) and (not last or day <= last)]
