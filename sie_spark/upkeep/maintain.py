"""Upkeep of every table: files of a good size, old ones removed, promises checked, verbatim text let go."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from pyspark.sql import functions as F

from sie_spark.importance.artefacts import FOLDER as ARTEFACTS
from sie_spark.ingest.staging import FOLDER, LANDING, clear_all
from sie_spark.platform.catalog import RETENTION, TABLES, Catalog, has_commits, metadata, retried
from sie_spark.platform.context import Context
from sie_spark.platform.errors import DataError
from sie_spark.platform.result import StageResult
from sie_spark.platform.tables import CONSTRAINTS, LOCAL, commit_metadata, session_settings, vacuum_now

JOB = "maintain"
FILE_BYTES = {
    "spark.databricks.delta.optimize.minFileSize": str(128 << 20),
    "spark.databricks.delta.optimize.maxFileSize": str(256 << 20),
}


def run(ctx: Context) -> StageResult:
    """Check, compact and vacuum every table that exists; the rows of each stay the same.

    What killed runs left staged is removed (on a local root; an object store may have an ingest under way).

    Raises
    ------
    DataError
        when a table lost a retention property or a CHECK constraint.
    """
    details: dict[str, Any] = {}
    stamp = metadata(job=JOB, fingerprint="")
    if ctx.root.is_local:  # where the lock says that no ingest is under way
        clear_all(ctx.root)
    tables = [name for name in TABLES if ctx.catalog.exists(name)]
    for name in tables:
        _check_promises(ctx.catalog, name)
    settings = {**FILE_BYTES, **(LOCAL if ctx.root.is_local else {})}
    with commit_metadata(ctx.spark, stamp), session_settings(ctx.spark, settings):
        details["unparsed_texts_removed"] = expire_unparsed(ctx, ctx.config.dataset.unparsed_days)
        for name in tables:
            table = ctx.catalog.sql_name(name)
            # the statement gives one row: the path and a struct of counts
            row = retried(partial(ctx.spark.sql, f"OPTIMIZE {table}")).first()
            ctx.spark.sql(f"VACUUM {table}").limit(1).count()
            counts = row["metrics"].asDict() if row is not None else {}
            details[name] = {
                "files_added": counts.get("numFilesAdded"),
                "files_removed": counts.get("numFilesRemoved"),
            }
    details["artefacts_removed"] = _without_old_artefacts(ctx)
    ctx.save_details(JOB, details)
    return StageResult(outputs={name: ctx.catalog.ref(name) for name in tables}, details=details)


def _without_old_artefacts(ctx: Context) -> int:
    """Remove what scores of earlier rows, models or settings were made with."""
    used = ctx.load_details("score").get("artefacts")
    if used is None:
        return 0
    removed = 0
    for fit in ctx.root.entries(ARTEFACTS):
        for made in ctx.root.entries(ARTEFACTS, fit):
            if used.get(fit) != made:
                ctx.root.remove(ARTEFACTS, fit, made)
                removed += 1
    return removed


def promises(catalog: Catalog, name: str) -> dict[str, str]:
    """A table's properties, constraints among them."""
    rows = catalog.spark.sql(f"SHOW TBLPROPERTIES {catalog.sql_name(name)}").collect()  # a row a property
    return {row["key"]: row["value"] for row in rows}


def _check_promises(catalog: Catalog, name: str) -> None:
    have = promises(catalog, name)
    wanted = {
        **RETENTION,
        **{f"delta.constraints.{key}": test for key, test in CONSTRAINTS.get(name, {}).items()},
    }
    lost = sorted(key for key, value in wanted.items() if have.get(key) != value)
    if lost:
        raise DataError(
            f"table '{name}' lost {', '.join(lost)}",
            remedy=f"set them again with ALTER TABLE {catalog.sql_name(name)}, or make the table anew",
        )


def expire_unparsed(ctx: Context, days: int) -> int:
    """Remove the verbatim text of unparsable records that were quarantined, or landed and left, more than ``days`` ago.

    The row stays with its reasons and its id, so that the record is not taken in again.
    """
    cutoff = datetime.now(UTC) - timedelta(days=days)
    removed = 0
    if ctx.catalog.exists("quarantine"):
        old = f"quarantined_at <= TIMESTAMP'{cutoff.isoformat()}'"
        removed = _without_texts(ctx, ctx.catalog.sql_name("quarantine"), old)
    for name in ctx.root.entries(FOLDER):  # of a run that was killed, whose mapping has changed since
        if name.startswith(LANDING) and has_commits(ctx.root, FOLDER, name):
            landing = f"delta.`{ctx.root.path(FOLDER, name)}`"
            last = (
                ctx.spark.sql(f"DESCRIBE HISTORY {landing} LIMIT 1")
                .select(F.unix_seconds("timestamp"))
                .first()
            )
            if last is None or last[0] > cutoff.timestamp():
                continue
            if found := _without_texts(ctx, landing, "true"):
                removed += found
                vacuum_now(ctx.catalog, landing)
    return removed


def _without_texts(ctx: Context, table: str, old: str) -> int:
    statement = f"UPDATE {table} SET unparsed = NULL WHERE unparsed IS NOT NULL AND {old}"
    with commit_metadata(ctx.spark, metadata(job=JOB, fingerprint="")):
        done = retried(lambda: ctx.spark.sql(statement).first())
    return int(done["num_affected_rows"]) if done is not None else 0
