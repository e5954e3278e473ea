"""A person is removed from every table and vocabulary, and what had learnt from them is named.

Delta keeps removed rows in older files until VACUUM deletes those; ``at_once`` does it now, at the price of
every table's time travel.
"""

from __future__ import annotations

import json
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from sie_spark.clickstream.pseudonyms import load_key, pseudonym_of
from sie_spark.clickstream.tables import LOCAL, NOW, commit_metadata, retried, session_settings
from sie_spark.features.erase import erase_value
from sie_spark.platform.catalog import TABLES, metadata
from sie_spark.platform.context import Context
from sie_spark.platform.errors import DataError
from sie_spark.platform.result import StageResult
from sie_spark.platform.root import read_bytes

JOB = "forget"
VIEW = "_sie_forget"
ARMS = ("reference", "full", "weighted", "random")


def run(ctx: Context, *, user: str, at_once: bool = False) -> StageResult:
    """Delete a user's rows from all tables.

    Parameters
    ----------
    user:
        the identifier as it stands in the source; only its keyed hash is looked for and written.
    at_once:
        vacuum now, without the retention that time travel needs.

    Raises
    ------
    DataError
        when no table knows the user.
    """
    name = pseudonym_of(user, load_key(ctx.root, say=ctx.progress.warn))
    ctx.catalog.require("events")
    tables = [table for table in TABLES if ctx.catalog.exists(table)]
    person = ctx.spark.createDataFrame([(name, user)], "user_id string, raw string")
    samples = _sample_ids(ctx, tables, person)
    before = {table: ctx.catalog.version(table) for table in tables}
    removed = {table: _delete(ctx, table, person, samples) for table in reversed(tables)}
    removed = {table: rows for table, rows in removed.items() if rows}
    if not removed:
        raise DataError(
            "no table holds rows of this user",
            remedy="give the identifier as in the source; with another pseudonym key nobody can be found",
        )
    for table in tables:
        if at_once:
            _erase_history(ctx, ctx.catalog.sql_name(table))
    encoders = erase_value(ctx.root, name)
    details = {
        "removed": removed,
        "vocabularies": encoders,
        "history": "erased" if at_once else "erased by 'sie maintain' when the retention has passed",
        "had_seen": _learners(ctx, removed),
        "no_longer_rebuilt": {table: before[table] for table in removed if table != "quarantine"},
        "not_touched": "the source itself: remove the user there too, or a new root takes them in again",
    }
    ctx.save_details(JOB, details)
    return StageResult(outputs={table: ctx.catalog.ref(table) for table in removed}, details=details)


def _sample_ids(ctx: Context, tables: list[str], person: DataFrame) -> DataFrame | None:
    """The ids of the user's samples, from the impressions as they stand now."""
    if "impressions" not in tables:
        return None
    rows = ctx.catalog.read("impressions", version=ctx.catalog.version("impressions"))
    rows = rows.join(F.broadcast(person), "user_id", "left_semi")
    return rows.select(F.xxhash64("impression_id").alias("sample_id")).distinct()


def _delete(ctx: Context, table: str, person: DataFrame, samples: DataFrame | None) -> int:
    """Delete by a join with data: neither the name nor its hash stands in a statement or a history."""
    rows = ctx.catalog.read(table)
    if "user_id" in rows.columns:
        key, who = "user_id", person.select("user_id")
    elif table == "quarantine":
        # records hold the hash; a text that could not be parsed may hold the name itself
        in_record = F.coalesce(F.contains(F.col("record"), F.col("user_id")), F.lit(False))
        word = F.concat(F.lit(r"(?<!\w)\Q"), F.col("raw"), F.lit(r"\E(?!\w)"))  # 'u1' is not in 'u12'
        verbatim = F.col("unparsed")
        encoded = F.expr("cast(try_to_binary(substring(unparsed, 8), 'base64') as string)")
        verbatim = F.when(verbatim.startswith("base64:"), encoded).otherwise(verbatim)
        in_text = F.coalesce(F.regexp_like(verbatim, word), F.lit(False))
        theirs = rows.crossJoin(F.broadcast(person)).where(in_record | in_text)
        key, who = "record_id", theirs.select("record_id").distinct()
    elif "sample_id" in rows.columns and samples is not None:
        key, who = "sample_id", samples
    else:
        return 0
    found = rows.join(who, key, "left_semi").groupBy("event_date").count().collect()  # a row a date
    if found:
        _commit(ctx, table, key, who, sorted(str(row[0]) for row in found))
    return sum(int(row[1]) for row in found)


def _commit(ctx: Context, table: str, key: str, who: DataFrame, dates: list[str]) -> None:
    who.createOrReplaceTempView(VIEW)
    statement = (
        f"MERGE INTO {ctx.catalog.sql_name(table)} t USING {VIEW} s ON t.{key} = s.{key} "
        "WHEN MATCHED THEN DELETE"
    )
    stamp = metadata(job=JOB, fingerprint="", scope=JOB, dates=json.dumps(dates))
    with commit_metadata(ctx.spark, stamp):
        retried(lambda: ctx.spark.sql(statement).collect())  # one row of counts
    ctx.spark.catalog.dropTempView(VIEW)


def _erase_history(ctx: Context, table: str) -> None:
    stamp = metadata(job=JOB, fingerprint="")
    settings = {**NOW, **(LOCAL if ctx.root.is_local else {})}
    with session_settings(ctx.spark, settings), commit_metadata(ctx.spark, stamp):
        ctx.spark.sql(f"REORG TABLE {table} APPLY (PURGE)").limit(1).count()
        ctx.spark.sql(f"VACUUM {table} RETAIN 0 HOURS").limit(1).count()


def _learners(ctx: Context, removed: dict[str, int]) -> dict[str, Any]:
    """Training sets and models that had seen the user: trained from tables that held them."""
    sets = [table for table in ("samples", "scores", "training_set") if table in removed]
    models = {}
    for arm in ARMS:
        if ctx.root.exists("models", arm, "current.json"):
            pointer = json.loads(read_bytes(ctx.root.path("models", arm, "current.json")))
            table = "samples" if arm in ("reference", "full") else "training_set"
            if table in removed:
                models[arm] = pointer.get("fingerprint", "unknown")
    return {"training_sets": sets, "models": models}
