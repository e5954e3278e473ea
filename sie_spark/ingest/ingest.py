"""Raw records become ``events`` and ``quarantine``, each exactly once, whatever is killed or run twice."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from pyspark.sql import functions as F

from sie_spark.ingest.canonical import canonicalise
from sie_spark.ingest.holdings import (
    IDENTITY_FILE,
    check_root,
    made_of_this_alone,
    mapping_digest,
    warn_of_mapping,
    way_to_remake,
)
from sie_spark.ingest.landing import Landing
from sie_spark.ingest.pseudonyms import load_key
from sie_spark.ingest.refusals import ColumnsSeen, cautions, check_read, check_shares
from sie_spark.ingest.staging import (
    ROW,
    Batch,
    Counts,
    Fate,
    clear,
    distinct_rows,
    load_counts,
    new_by_date,
    stage,
)
from sie_spark.ingest.tolerance import percent
from sie_spark.platform.catalog import metadata
from sie_spark.platform.context import Context
from sie_spark.platform.errors import RowIdentityError, SourceError
from sie_spark.platform.failures import readable
from sie_spark.platform.result import Rows, StageResult, TableRef
from sie_spark.platform.tables import (
    EXPRESSIONS,
    around,
    column_types,
    dates_in,
    ensure,
    insert_new,
    replace_rows,
    session_settings,
)
from sie_spark.sources.read import INTO_FOLDERS, Snapshot, read, snapshot

JOB = "ingest"
LEDGER = "ingested"
# every column of a record in one compiled method, which session.py and spark-defaults.conf let HotSpot compile:
# a fifth faster over a million records, and compiled for longer than a small source is read
ONE_METHOD = {"spark.sql.codegen.hugeMethodLimit": "65535"}
LARGE = 64 << 20  # bytes of a source


def run(ctx: Context) -> StageResult:
    """Ingest ``dataset.source``; skipped when the same bytes were ingested by the same settings before.

    Raises
    ------
    SourceError, ConfigError
        naming file, column and remedy.
    RowIdentityError
        when rows read differ from events + quarantined + duplicates; nothing was made visible.
    """
    identity = check_root(ctx)
    files = snapshot(ctx.spark, ctx.config.dataset.source)
    if files.below:
        ctx.progress.warn(
            f"{ctx.config.dataset.source.path}: {files.below:,} files in folders below are not read: {INTO_FOLDERS}"
            " (false says that they are left out on purpose)"
        )
    large = files.size >= LARGE or not files.size  # 0: a Delta table, of unknown size
    with session_settings(ctx.spark, {**EXPRESSIONS, **(ONE_METHOD if large else {})}):
        if ctx.config.dataset.source.incremental:
            return _incremental(ctx, files, identity)
        fingerprint = batch_fingerprint(ctx, files)
        done = _ledger(ctx, fingerprint)
        if done is not None and ctx.up_to_date(fingerprint):
            ctx.save_details(JOB, done)
            return _result(ctx, done, skipped=True)
        anew = ctx.config.run.force and made_of_this_alone(ctx, files)
        name = f"{fingerprint}-anew" if anew else fingerprint
        delivery = Delivery(files, identity, fingerprint, staged=name, source=files.digest, anew=anew)
        if not anew:
            warn_of_mapping(ctx, identity, files)
        counts = load_counts(ctx.root, delivery.staged)
        if counts is None:
            counts = _stage(ctx, delivery)
        else:
            ctx.progress.say(f"going on with a staged batch of {counts.read:,} rows")
        return _publish(ctx, delivery, counts)


@dataclass(frozen=True)
class Delivery:
    """What is taken in at once: a batch source, or what has landed of an incremental one."""

    files: Snapshot
    identity: dict[str, Any]  # of the data set, as the root keeps it
    fingerprint: str
    staged: str  # the name it is staged under
    source: str = ""  # the digest of the batch source
    anew: bool = False  # the tables are made anew of it


def _publish(ctx: Context, delivery: Delivery, counts: Counts) -> StageResult:
    name = delivery.staged
    try:
        check_read(ctx.config.dataset.source, counts)
        batch = distinct_rows(ctx, name, counts, anew=delivery.anew)
        check_shares(ctx, name, counts, batch.duplicates)
        ctx.root.write_bytes(json.dumps(delivery.identity, sort_keys=True).encode(), *IDENTITY_FILE)
        fate = publish(ctx, batch, counts, delivery)
    except (SourceError, RowIdentityError):  # the next run reads the source again
        clear(ctx.root, name)
        raise
    said = cautions(ctx, name, counts, batch.duplicates)
    details = {
        **_details(ctx, delivery.files, counts, fate, said),
        "table": ctx.catalog.identity("events"),
    }
    ctx.root.write_bytes(json.dumps(details, sort_keys=True).encode(), LEDGER, f"{delivery.fingerprint}.json")
    ctx.save_details(JOB, details)
    clear(ctx.root, name)
    ctx.progress.say(
        f"{fate.read:,} rows read = {fate.kept:,} events + {fate.quarantined:,} quarantined"
        f" + {fate.duplicate:,} duplicates"
        + (f" ({percent(fate.duplicate / fate.read)})" if fate.duplicate else "")
    )
    for caution in said:
        ctx.progress.warn(caution)
    return _result(ctx, details)


def _incremental(ctx: Context, files: Snapshot, identity: dict[str, Any]) -> StageResult:
    """Only what came since the last run: a stream that stops at the end lands rows, then they are a delivery.

    What a run that was killed, or refused, has landed is a delivery of its own, and comes first. Landed rows are
    removed after they are published; killed in between, the next run publishes them again, and they are duplicates.
    """
    source, landing = ctx.config.dataset.source, Landing(ctx)
    raw = read(ctx.spark, source, files, stream=True)
    key = load_key(ctx.root, say=ctx.progress.warn)
    new = not ctx.catalog.exists("events")
    canonical = canonicalise(
        raw,
        ctx.config.dataset,
        key,
        ctx.spark,
        existing=column_types(ctx.catalog, "events"),
        remake=lambda: way_to_remake(ctx, files),
    )
    if new and landing.is_stale(canonical):
        landing.start_over()
    warn_of_mapping(ctx, identity, files)
    results = []
    try:
        for land in (False, True):
            if land:
                landing.take(canonical, str(source.path))
            landed, fingerprint = landing.rows(), landing.fingerprint()
            if landed is None:
                continue
            counts = load_counts(ctx.root, fingerprint)
            if counts is None:
                look = ColumnsSeen(raw, source)
                counts = stage(ctx, replace(canonical, frame=landed), fingerprint, look)
            results.append(_publish(ctx, Delivery(files, identity, fingerprint, fingerprint), counts))
            landing.empty()
    except SourceError:
        if new and not ctx.catalog.exists("events"):  # its columns are nobody's: mended, they may be others
            landing.start_over()
        raise
    if results:
        return _together(ctx, results)
    if new:
        check_read(source, Counts(0, 0))
    nothing = _details(ctx, files, Counts(0, 0), Fate(0, 0, 0, 0), [])
    return _result(ctx, nothing, skipped=True)


def _together(ctx: Context, results: list[StageResult]) -> StageResult:
    """One result of several deliveries."""
    first, *others = (result.details for result in results)
    for other in others:
        summed = ("rows", "reasons", "warnings")
        first = {
            **other,
            **{name: dict(Counter(first[name]) + Counter(other[name])) for name in summed[1:]},
            "rows": {name: n + other["rows"][name] for name, n in first["rows"].items()},
            "cautions": [*first["cautions"], *other["cautions"]],
        }
        ctx.save_details(JOB, first)
    return _result(ctx, first)


def batch_fingerprint(ctx: Context, files: Snapshot) -> str:
    """What a batch is: the bytes of the source, the mapping, the dates; events are never made anew for our code."""
    dates = (ctx.config.run.date_from, ctx.config.run.date_to)
    return ctx.fingerprint(
        JOB, "dataset.name", code=(), mapping=mapping_digest(ctx), source=files.digest, dates=dates
    )


def _stage(ctx: Context, delivery: Delivery) -> Counts:
    dataset = ctx.config.dataset
    raw = read(ctx.spark, dataset.source, delivery.files)
    key = load_key(ctx.root, say=ctx.progress.warn)
    canonical = canonicalise(
        raw,
        dataset,
        key,
        ctx.spark,
        existing={} if delivery.anew else column_types(ctx.catalog, "events"),
        remake=lambda: way_to_remake(ctx, delivery.files),
    )
    with readable(str(dataset.source.path)):
        return stage(ctx, canonical, delivery.staged, ColumnsSeen(raw, dataset.source))


def publish(ctx: Context, batch: Batch, counts: Counts, delivery: Delivery) -> Fate:
    """Make a checked batch visible: quarantine first, then events; both merges only insert what is new.

    Raises
    ------
    RowIdentityError
        before either is visible.
    """
    catalog, dataset = ctx.catalog, ctx.config.dataset
    rejected = batch.rejected.select(
        F.col("event_id").alias("record_id"),
        *("event_date", "reasons", "record", "unparsed", "source_file"),
        F.current_timestamp().alias("quarantined_at"),
    )
    internal = ("reasons", "record", "unparsed", "source_file", ROW)
    accepted = batch.accepted.select(*[name for name in batch.accepted.columns if name not in internal])
    new = {"quarantine": batch.distinct_rejected, "events": batch.distinct_accepted}
    stamp = {
        "fingerprint": delivery.fingerprint,
        "mapping": delivery.identity["mapping"],
        "source": delivery.source,
    }
    if delivery.anew:
        ctx.root.remove(LEDGER)  # what it says is of the tables as they were
        for name, rows in (("quarantine", rejected), ("events", accepted)):
            commit = metadata(job=JOB, **stamp)
            replace_rows(catalog, rows, name, layout=dataset.layout, dates=None, stamp=commit)
        return Fate(counts.read, new["events"], new["quarantine"], counts.read - sum(new.values()))
    touched = batch.accepted_dates
    looked_at = around(batch.accepted_dates, dataset.dedup_days)
    for name, rows, staged_rows, key, dates, days in (
        ("quarantine", rejected, batch.rejected, "record_id", batch.rejected_dates, 0),
        ("events", accepted, batch.accepted, "event_id", looked_at, dataset.dedup_days),
    ):
        made = ensure(catalog, name, rows.schema, layout=dataset.layout)
        if dates and not made:
            by_date = new_by_date(catalog, staged_rows, name, key=key, where=dates_in(dates), days=days)
            new[name] = sum(by_date.values())
            touched = sorted(by_date) if name == "events" else touched
    kept, quarantined = new["events"], new["quarantine"]
    repeated = counts.read - batch.distinct_accepted - batch.distinct_rejected
    known = batch.distinct_accepted + batch.distinct_rejected - kept - quarantined
    if repeated < 0 or known < 0:
        raise RowIdentityError(
            f"rows read {counts.read} differ from events {kept} + quarantined {quarantined}"
            f" + duplicates {repeated + known}; nothing was made visible",
            remedy="this is a defect: please report it with the data set's YAML",
        )
    if quarantined:
        quarantined = insert_new(
            catalog,
            rejected,
            "quarantine",
            key="record_id",
            dates=batch.rejected_dates,
            days=0,
            stamp=metadata(job=JOB, **stamp),
        )
    if kept:
        kept = insert_new(
            catalog,
            accepted,
            "events",
            key="event_id",
            dates=looked_at,
            days=dataset.dedup_days,
            stamp=metadata(job=JOB, dates=json.dumps(touched), **stamp),
        )
    # another job may have inserted some of them in between: they are duplicates of this run then
    return Fate(counts.read, kept, quarantined, counts.read - kept - quarantined)


def _details(ctx: Context, files: Snapshot, counts: Counts, fate: Fate, said: list[str]) -> dict[str, Any]:
    return {
        "source": ctx.config.dataset.source.path,
        "files": files.files,
        "bytes": files.size,
        "rows": {
            "read": fate.read,
            "kept": fate.kept,
            "quarantined": fate.quarantined,
            "duplicate": fate.duplicate,
        },
        "outside_dates": counts.outside,
        "reasons": counts.reasons,
        "warnings": counts.warnings,
        "cautions": said,
    }


def _ledger(ctx: Context, fingerprint: str) -> dict[str, Any] | None:
    """What an earlier run said of a batch; None where the tables that it went into are not there any more."""
    entry: dict[str, Any] | None = ctx.root.read_json(LEDGER, f"{fingerprint}.json")
    if entry is None or not all(map(ctx.catalog.exists, ("events", "quarantine"))):
        return None
    table = ctx.catalog.identity("events")
    return entry if entry.get("table", table) == table else None


def _result(ctx: Context, details: dict[str, Any], *, skipped: bool = False) -> StageResult:
    rows = details["rows"]
    outputs: dict[str, TableRef] = {name: ctx.catalog.ref(name) for name in ("events", "quarantine")}
    metrics = {f"rows_{name}": float(value) for name, value in rows.items()}
    return StageResult(outputs=outputs, rows=Rows(**rows), metrics=metrics, details=details, skipped=skipped)
