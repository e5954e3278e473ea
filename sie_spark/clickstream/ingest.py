"""Raw records become ``events`` and ``quarantine``, each exactly once, whatever is killed or run twice."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from pyspark.sql import Column
from pyspark.sql import functions as F

from sie_spark.clickstream.canonical import canonicalise
from sie_spark.clickstream.drift import NEW_COLUMN, Raw
from sie_spark.clickstream.failures import doubts, readable
from sie_spark.clickstream.pseudonyms import load_key
from sie_spark.clickstream.sources import Snapshot, read, snapshot
from sie_spark.clickstream.staging import (
    BAD,
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
from sie_spark.platform.config import Source
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
ENOUGH_ROWS = 100  # a JSON column that none of so many records has is missing
# by the reason that every row is rejected for
WHAT_TO_MEND = {
    "event_ts:required": "check dataset.event_time: its expression is null, or reads otherwise than its format says",
    "event_ts:absurd": "check dataset.event_time.format: read so, the times lie before 1990 or after 2099",
    "label:not 0 or 1": "make dataset.columns.label 0 or 1, e.g. cast(clicks > 0 AS INT)",
    "sampling_rate:not in (0, 1]": "make dataset.sampling_rate a probability: of percents, percent / 100",
}
ALL_ROWS_WRONG = 20  # a column whose every value has another type, over at least so many rows, was retyped


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
        _check(ctx, counts)
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
    for doubt in doubts(ctx.config.dataset.source, counts.warnings, counts.reasons):
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
            _check(ctx, Counts(0, 0))
        nothing = _details(ctx, files, Counts(0, 0), Fate(0, 0, 0, 0))
        return _result(ctx, nothing, skipped=True)
    fingerprint = digest([mapping, "landing", version])
    counts = load_counts(ctx.root, fingerprint)
    if counts is None:
        counts = stage(ctx, replace(canonical, frame=landed), fingerprint, _Look(raw, dataset.source))
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
    source = str(dataset.source.path)
    raw = read(ctx.spark, dataset.source, files)
    key = load_key(ctx.root, say=ctx.progress.warn)
    canonical = canonicalise(raw, dataset, key, ctx.spark, column_types(ctx.catalog, "events"))
    looked = _Look(raw, dataset.source)
    with readable(source):
        return stage(ctx, canonical, fingerprint, looked)


class _Look:
    """What only a pass over JSON can tell of its columns: some never came, others nobody declared."""

    def __init__(self, raw: Raw, settings: Source) -> None:
        self.settings = settings
        self.bits = raw.bits
        self.measures: list[Column] = []
        if not raw.bits:
            return
        self.measures.append(F.count(F.when(F.col("unparsed").isNull(), 1)).alias("parsed"))
        self.measures += [F.bit_or(mask).alias(mask) for mask in raw.masks]
        if settings.on_new_column == "refuse":
            new = F.array_max(F.filter("reasons", lambda reason: reason.startswith(NEW_COLUMN)))
            self.measures.append(F.max(F.when(F.col(BAD), new)).alias("new"))

    def check(self, saw: dict[str, Any]) -> None:
        """Refuse, where the settings say so, before anything is visible."""
        settings = self.settings
        if saw.get("new"):
            raise SourceError(
                f"{settings.path}: a new column '{saw['new'].removeprefix(NEW_COLUMN)}',"
                " not in dataset.source.columns",
                remedy="declare it, or set source.on_new_column to ignore, add or quarantine",
            )
        absent = [name for name, (mask, bit) in self.bits.items() if not (saw[mask] or 0) >> bit & 1]
        if absent and saw["parsed"] >= ENOUGH_ROWS and settings.on_missing_column == "refuse":
            raise SourceError(
                f"{settings.path}: declared column(s) {', '.join(absent)} are in none of its records",
                remedy="mend the source or dataset.source.columns, or set source.on_missing_column to null",
            )


def _check(ctx: Context, counts: Counts) -> None:
    """Refuse what no row's reason can say: an empty source, a source that is of another kind altogether."""
    source = str(ctx.config.dataset.source.path)
    if counts.read == 0 and counts.outside == 0:
        raise SourceError(f"{source}: holds no records", remedy="check the source: its files are empty")
    if counts.read == 0:
        raise SourceError(
            f"{source}: none of its {counts.outside:,} records lie in the asked dates",
            remedy="check run.date_from and run.date_to",
        )
    unparsed = counts.reasons.get("unparsable", 0)
    if unparsed == counts.read >= ALL_ROWS_WRONG:
        raise SourceError(
            f"{source}: no record can be parsed as {ctx.config.dataset.source.format}",
            remedy="check dataset.source.format and source.options",
        )
    # a whole delivery with a drifted column is what on_new_column and its like asked to quarantine
    if counts.rejected - counts.drifted == counts.read >= ALL_ROWS_WRONG:
        worst = max(counts.reasons, key=lambda reason: _blame(reason, counts), default="unknown")
        retyped = worst.removeprefix("type:")
        raise SourceError(
            f"{source}: every one of {counts.read:,} rows is rejected, mostly for '{worst}'",
            remedy=f"declare '{retyped}' in dataset.source.columns as what it holds: of 1.0 a DOUBLE, else a STRING"
            if retyped != worst
            else WHAT_TO_MEND.get(worst, "the columns or the rules in the YAML do not fit this source"),
        )
    if ctx.config.dataset.source.on_type_change != "refuse":
        return
    for reason, rows in counts.reasons.items():
        if reason.startswith("type:") and rows == counts.read - unparsed >= ALL_ROWS_WRONG:
            raise SourceError(
                f"{source}: every value of column '{reason[5:]}' has another type than declared",
                remedy="correct dataset.source.columns, or set source.on_type_change to quarantine",
            )


def _blame(reason: str, counts: Counts) -> tuple[bool, int]:
    """Most rows first; a column that could not be read before what is wrong with the null that it left."""
    rows = counts.reasons[reason]
    return reason.startswith("type:") and 2 * rows > counts.read, rows


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
