"""Raw records become ``events`` and ``quarantine``, each exactly once, whatever is killed or run twice."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from pyspark.sql import functions as F

from sie_spark.clickstream.canonical import canonicalise
from sie_spark.clickstream.drift import REPEATED
from sie_spark.clickstream.failures import readable
from sie_spark.clickstream.pseudonyms import load_key
from sie_spark.clickstream.refusals import ColumnsSeen, check_counts, doubts
from sie_spark.clickstream.sources import INTO_FOLDERS, Snapshot, read, snapshot
from sie_spark.clickstream.staging import (
    FOLDER,
    LANDING,
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
from sie_spark.clickstream.tables import (
    EXPRESSIONS,
    around,
    column_types,
    dates_in,
    ensure,
    insert_new,
    session_settings,
    types_of,
    vacuum_now,
)
from sie_spark.platform.catalog import has_commits, metadata
from sie_spark.platform.config.load import digest
from sie_spark.platform.context import Context
from sie_spark.platform.errors import ConfigError, RowIdentityError, SourceError
from sie_spark.platform.result import Rows, StageResult, TableRef

JOB = "ingest"
LEDGER = "ingested"
IDENTITY_FILE = ("state", "dataset.json")
MAPPING = (
    "kind",
    "source",
    "columns",
    "event_time",
    "time_zone",
    "identifiers",
    "event_key",
    "sampling_rate",
    "rules",
)
# every column of a record in one compiled method, which session.py and spark-defaults.conf let HotSpot compile:
# a fifth faster over a million records, and compiled for longer than a small source is read
ONE_METHOD = {"spark.sql.codegen.hugeMethodLimit": "65535"}
# landed rows are read once; their Delta log would keep the extremes of identifiers after they are forgotten
NO_STATISTICS = {"spark.databricks.delta.properties.defaults.dataSkippingNumIndexedCols": "0"}
IDS = 2  # how the id of a record without a key is made; raised where that changes
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
    _check_root(ctx)
    files = snapshot(ctx.spark, ctx.config.dataset.source)
    if files.below:
        ctx.progress.warn(
            f"{ctx.config.dataset.source.path}: {files.below:,} files in folders below are not read: {INTO_FOLDERS}"
            " (false says that they are left out on purpose)"
        )
    large = files.size >= LARGE or not files.size  # 0: a Delta table, of unknown size
    with session_settings(ctx.spark, {**EXPRESSIONS, **(ONE_METHOD if large else {})}):
        if ctx.config.dataset.source.incremental:
            return _incremental(ctx, files)
        fingerprint = batch_fingerprint(ctx, files)
        done = _ledger(ctx, fingerprint)
        if done is not None and not ctx.config.run.force:
            ctx.save_details(JOB, done)
            return _result(ctx, done, skipped=True)
        counts = load_counts(ctx.root, fingerprint)
        if counts is None:
            counts = _stage(ctx, files, fingerprint)
        else:
            ctx.progress.say(f"going on with a staged batch of {counts.read:,} rows")
        return _publish(ctx, files, counts, fingerprint)


def _check_root(ctx: Context) -> None:
    """One data set a root; a mapping that changed is said, for rows that are in stay as they were read."""
    dataset, run = ctx.config.dataset, ctx.config.run
    if dataset.source.incremental and (run.date_from or run.date_to):
        raise ConfigError(
            "dataset.source.incremental reads what is new, run.date_from and run.date_to pick dates: not both",
            remedy="leave out the dates, or back-fill with --set dataset.source.incremental=false",
        )
    held = ctx.root.read_json(*IDENTITY_FILE) or {}
    filled = bool(held) and ctx.catalog.exists("events")
    if filled and held["dataset"] != dataset.name:
        raise ConfigError(
            f"{ctx.root.uri} holds data set '{held['dataset']}', and this is '{dataset.name}'",
            remedy="give each data set a --root of its own",
        )
    mapping = mapping_digest(ctx)
    if filled and not dataset.event_key and held.get("ids") != IDS:
        raise ConfigError(
            f"{ctx.root.uri} was made by an earlier version, which knew records without dataset.event_key by other"
            " ids: records sent again would be taken for new ones",
            remedy="ingest into another --root",
        )
    if filled and held["mapping"] != mapping:
        ctx.progress.warn(
            "the data set's mapping (columns, rules, source) differs from the one that made table events: records"
            " that are in already stay as they are; for all of them anew take another --root"
        )
    identity = {"dataset": dataset.name, "mapping": mapping, "ids": IDS}
    if held != identity:
        ctx.root.write_bytes(json.dumps(identity, sort_keys=True).encode(), *IDENTITY_FILE)


def _publish(ctx: Context, files: Snapshot, counts: Counts, fingerprint: str) -> StageResult:
    try:
        check_counts(ctx.config.dataset.source, counts)
        batch = distinct_rows(ctx, fingerprint, counts)
        fate = publish(ctx, batch, counts, fingerprint)
    except (SourceError, RowIdentityError):  # the next run reads the source again
        clear(ctx.root, fingerprint)
        raise
    details = {**_details(ctx, files, counts, fate), "table": ctx.catalog.identity("events")}
    ctx.root.write_bytes(json.dumps(details, sort_keys=True).encode(), LEDGER, f"{fingerprint}.json")
    ctx.save_details(JOB, details)
    clear(ctx.root, fingerprint)
    ctx.progress.say(
        f"{fate.read:,} rows read = {fate.kept:,} events + {fate.quarantined:,} quarantined"
        f" + {fate.duplicate:,} duplicates"
    )
    for doubt in doubts(ctx.config.dataset.source, counts):
        ctx.progress.warn(doubt)
    return _result(ctx, details)


def _incremental(ctx: Context, files: Snapshot) -> StageResult:
    """Only what came since the last run: a stream that stops at the end lands rows, then they are a batch.

    Landed rows are removed after they are published. Killed in between, the next run publishes them, and
    those that were published already are duplicates.
    """
    dataset = ctx.config.dataset
    mapping = mapping_digest(ctx)
    landing = ctx.root.path(FOLDER, f"{LANDING}{mapping}")
    raw = read(ctx.spark, dataset.source, files, stream=True)
    key = load_key(ctx.root, say=ctx.progress.warn)
    types = column_types(ctx.catalog, "events")
    if not types and has_commits(ctx.root, FOLDER, f"{LANDING}{mapping}"):
        types = types_of(ctx.spark.read.format("delta").load(landing))  # Delta would cast in silence
    canonical = canonicalise(raw, dataset, key, ctx.spark, types)
    with readable(str(dataset.source.path)), session_settings(ctx.spark, NO_STATISTICS):
        query = (
            canonical.frame.writeStream.format("delta")
            .option("checkpointLocation", ctx.root.path("checkpoints", f"{JOB}-{mapping}"))
            .option("mergeSchema", "true")
            .trigger(availableNow=True)
            .start(landing)
        )
        query.awaitTermination()
    landed = ctx.spark.read.format("delta").load(landing)
    row = ctx.spark.sql(f"DESCRIBE HISTORY delta.`{landing}` LIMIT 1").select("version").first()
    version = int(row[0]) if row is not None else 0
    if landed.isEmpty():
        if not ctx.catalog.exists("events"):
            check_counts(dataset.source, Counts(0, 0))
        nothing = _details(ctx, files, Counts(0, 0), Fate(0, 0, 0, 0))
        return _result(ctx, nothing, skipped=True)
    fingerprint = digest([mapping, "landing", version])
    counts = load_counts(ctx.root, fingerprint)
    if counts is None:
        counts = stage(ctx, replace(canonical, frame=landed), fingerprint, ColumnsSeen(raw, dataset.source))
    result = _publish(ctx, files, counts, fingerprint)
    ctx.spark.sql(f"DELETE FROM delta.`{landing}`").collect()  # one row of counts
    vacuum_now(ctx.catalog, f"delta.`{landing}`")  # no older version of rows that are in the tables
    return result


def batch_fingerprint(ctx: Context, files: Snapshot) -> str:
    """What a batch is: the bytes of the source, the mapping, the dates."""
    dates = (ctx.config.run.date_from, ctx.config.run.date_to)
    return ctx.fingerprint(JOB, "dataset.name", mapping=mapping_digest(ctx), source=files.digest, dates=dates)


def mapping_digest(ctx: Context) -> str:
    """The settings that decide what a source row becomes, the place of the source aside."""
    options = ctx.config.dataset.options()
    chosen = {name: options[name] for name in MAPPING}
    chosen["source"] = {**chosen["source"], "path": None}
    return digest(chosen)


def _stage(ctx: Context, files: Snapshot, fingerprint: str) -> Counts:
    dataset = ctx.config.dataset
    raw = read(ctx.spark, dataset.source, files)
    key = load_key(ctx.root, say=ctx.progress.warn)
    canonical = canonicalise(raw, dataset, key, ctx.spark, column_types(ctx.catalog, "events"))
    with readable(str(dataset.source.path)):
        return stage(ctx, canonical, fingerprint, ColumnsSeen(raw, dataset.source))


def publish(ctx: Context, batch: Batch, counts: Counts, fingerprint: str) -> Fate:
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
    stamp = {"fingerprint": fingerprint, "mapping": mapping_digest(ctx)}
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


def _details(ctx: Context, files: Snapshot, counts: Counts, fate: Fate) -> dict[str, Any]:
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
        "cautions": _cautions(counts),
    }


def _cautions(counts: Counts) -> list[str]:
    """What a reader of the result must know of the records that stayed."""
    said = [
        f"Quality warning '{name}': {rows:,} rows (kept)." for name, rows in sorted(counts.warnings.items())
    ]
    if twice := counts.reasons.get(REPEATED):
        said.append(
            f"{twice:,} records say a key twice, with two values: nobody can tell which is meant, and they are set aside"
            f" (reason '{REPEATED}' in quarantine, and which key)."
        )
    return said


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
