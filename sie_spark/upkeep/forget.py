"""A person is removed from every table and vocabulary, and what had learnt from them is named.

Delta keeps removed rows in older files until VACUUM deletes those; ``at_once`` does it now, at the price of
every table's time travel.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import dataclass
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from sie_spark.explanation.page import FOLDER as EXPLANATIONS
from sie_spark.export.folder import NOTED as EXPORTS
from sie_spark.features.erase import erase_value
from sie_spark.importance.artefacts import FOLDER as ARTEFACTS
from sie_spark.impressions.shown import earlier_id
from sie_spark.ingest.pseudonyms import load_key, pseudonym_of
from sie_spark.ingest.staging import FOLDER, clear_all
from sie_spark.platform.catalog import TABLES, has_commits, metadata, retried
from sie_spark.platform.context import Context
from sie_spark.platform.errors import DataError
from sie_spark.platform.result import StageResult
from sie_spark.platform.tables import commit_metadata, dates_in, vacuum_now

JOB = "forget"
VIEW = "_sie_forget"
FORGOTTEN = ("state", "forgotten.json")  # what was noted of each person, by a hash of their keyed hash


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
    mark = hashlib.sha256(name.encode()).hexdigest()
    ctx.catalog.require("events")
    tables = [table for table in TABLES if ctx.catalog.exists(table)]
    person = ctx.spark.createDataFrame([(name, user)], "user_id string, _raw string")
    clear_all(ctx.root)  # batches in the making: the next ingest makes them again
    _delete_landed(ctx, person)
    samples = _sample_ids(ctx, tables, person)
    found = [one for table in tables if (one := _find(ctx, table, person, samples)) is not None]
    known = ctx.root.read_json(*FORGOTTEN) or {}
    if not found and mark not in known:
        doubtful = _left_in_doubt(ctx, person)
        raise DataError(
            "no table holds rows of this user"
            + (f"; {doubtful['records']} rejected records hold this value elsewhere" if doubtful else ""),
            remedy="give the identifier as in the source; with another pseudonym key nobody can be found"
            + (f"; see the records by {doubtful['see']}" if doubtful else ""),
        )
    # noted before anything is deleted: killed on the way, or asked once more, the next run goes on from it
    noted = known.get(mark, {"removed": {}, "no_longer_rebuilt": {}})
    noted["removed"].update({one.table: one.rows for one in found})
    versions = {one.table: ctx.catalog.version(one.table) for one in found if one.table != "quarantine"}
    noted["no_longer_rebuilt"].update(versions)
    if found:  # taken in again since, the person may have been learnt by more
        noted["had_seen"] = _learners(ctx, noted["removed"])
    ctx.root.write_bytes(json.dumps({**known, mark: noted}, sort_keys=True).encode(), *FORGOTTEN)
    for one in reversed(found):
        _commit(ctx, one)
    if at_once:
        for table in tables:
            _erase_history(ctx, ctx.catalog.sql_name(table))
    vocabularies = erase_value(ctx.root, name)
    ctx.root.remove(ARTEFACTS)  # samples of rows among them; the next score makes them anew
    ctx.root.remove(EXPLANATIONS)  # pages that show rows in words
    doubtful = _left_in_doubt(ctx, person)
    if doubtful:
        ctx.progress.warn(
            f"{doubtful['records']} rejected records hold this value in a field that is no identifier, perhaps"
            " somebody else's: they stay, see left_in_doubt"
        )
    details = {
        **noted,
        "left_in_doubt": doubtful,
        "vocabularies": vocabularies,
        "history": "erased" if at_once else "erased by 'sie maintain' when the retention has passed",
        "not_touched": "the source itself: remove the user there too, or a new root takes them in again",
    }
    ctx.save_details(JOB, details)
    outputs = {table: ctx.catalog.ref(table) for table in noted["removed"]}
    return StageResult(outputs=outputs, details=details)


@dataclass(frozen=True)
class Found:
    """A person's rows in a table: ``who`` holds their keys."""

    table: str
    key: str
    who: DataFrame
    dates: list[str]
    rows: int


def _sample_ids(ctx: Context, tables: list[str], person: DataFrame) -> DataFrame | None:
    """The ids of the user's samples, from the impressions as they stand now."""
    if "impressions" not in tables:
        return None
    name = F.col("impression_id")
    ids = F.array(F.xxhash64(name), F.xxhash64(earlier_id(name)))  # of samples that are not made anew yet
    return _theirs(ctx, person).select(F.explode(ids).alias("sample_id")).distinct()


def _theirs(ctx: Context, person: DataFrame) -> DataFrame:
    """A person's impressions as they stand now."""
    rows = ctx.catalog.read("impressions", version=ctx.catalog.version("impressions"))
    return rows.join(F.broadcast(person), "user_id", "left_semi")


def _find(ctx: Context, table: str, person: DataFrame, samples: DataFrame | None) -> Found | None:
    rows = ctx.catalog.read(table)
    if "user_id" in rows.columns:
        key, who = "user_id", person.select("user_id")
    elif table == "quarantine":
        theirs = rows.crossJoin(F.broadcast(person)).where(_in_record(F.col("user_id")))
        key, who = "record_id", theirs.select("record_id").distinct()
    elif (
        table == "daily_counts"
    ):  # their dates whole, for a query can be theirs alone: stage impressions counts them anew
        key, who = "event_date", _theirs(ctx, person).select("event_date").distinct()
    elif "sample_id" in rows.columns and samples is not None:
        key, who = "sample_id", samples
    else:
        return None
    by_date = rows.join(who, key, "left_semi").groupBy("event_date").count().collect()  # a row a date
    if not by_date:
        return None
    dates = sorted(str(row[0]) for row in by_date)
    return Found(table, key, who, dates, sum(int(row[1]) for row in by_date))


def _in_record(name: Column) -> Column:
    """Whether a rejected record is of the person: it holds the hash.

    In undeclared fields, which are kept as they came, and in the text of what could not be parsed, the name itself
    is looked for, as a word: nobody can tell there whose record it is. For declared fields see
    :func:`_left_in_doubt`.
    """
    hashed = F.coalesce(F.contains(F.col("record"), name), F.lit(False))
    word = F.concat(F.lit(r"(?<!\w)\Q"), F.col("_raw"), F.lit(r"\E(?!\w)"))  # 'u1' is not in 'u12'
    verbatim = F.col("unparsed")
    encoded = F.expr("cast(try_to_binary(substring(unparsed, 8), 'base64') as string)")
    verbatim = F.when(verbatim.startswith("base64:"), encoded).otherwise(verbatim)
    for text in (verbatim, F.get_json_object("record", "$.undeclared")):
        hashed = hashed | F.coalesce(F.regexp_like(text, word), F.lit(False))
    return hashed


def _left_in_doubt(ctx: Context, person: DataFrame) -> dict[str, Any]:
    """Rejected records that are left, though a field of theirs is the raw name: how many, and how to see them.

    A name in a field that identifies nobody may be the person's (the rejected record of a null user) or a
    stranger's place or price: only someone who reads the record can tell. The name itself stands in nothing that
    is kept, so the statements have a place for it.
    """
    if not ctx.catalog.exists("quarantine"):
        return {}
    values = "map_values(from_json(record, 'map<string,string>'))"
    rows = ctx.catalog.read("quarantine").crossJoin(F.broadcast(person.select("_raw")))
    found = rows.where(F.array_contains(F.expr(values), F.col("_raw"))).count()
    rest = f"FROM {ctx.catalog.sql_name('quarantine')} WHERE array_contains({values}, 'THE IDENTIFIER')"
    return {"records": found, "see": f"SELECT * {rest}", "remove": f"DELETE {rest}"} if found else {}


def _delete_landed(ctx: Context, person: DataFrame) -> None:
    """Rows of an incremental source that no ingest has published yet."""
    for name in ctx.root.entries(FOLDER):
        if not ctx.root.exists(FOLDER, name, "_delta_log"):
            continue
        if not has_commits(ctx.root, FOLDER, name):  # of an ingest that was killed, and lands them again
            ctx.root.remove(FOLDER, name)
            continue
        path = ctx.root.path(FOLDER, name)
        rows = ctx.spark.read.format("delta").load(path)
        people = F.broadcast(person.withColumnRenamed("user_id", "_person"))
        theirs = _in_record(F.col("_person"))
        if "user_id" in rows.columns:
            theirs = theirs | F.coalesce(F.col("user_id") == F.col("_person"), F.lit(False))
        keys = rows.crossJoin(people).where(theirs).select("event_id", "event_date").distinct()
        same = "t.event_id = s.event_id AND t.event_date = s.event_date"  # an id may begin anew each day
        _merge(ctx, f"delta.`{path}`", same, keys, metadata(job=JOB, fingerprint=""))
        vacuum_now(ctx.catalog, f"delta.`{path}`")


def _commit(ctx: Context, found: Found) -> None:
    once = uuid.uuid4().hex  # what is left without a person is no table that was there before
    stamp = metadata(job=JOB, fingerprint=once, scope=JOB, dates=json.dumps(found.dates))
    on = f"{dates_in(found.dates, 't.event_date')} AND t.{found.key} = s.{found.key}"
    _merge(ctx, ctx.catalog.sql_name(found.table), on, found.who, stamp)


def _merge(ctx: Context, table: str, on: str, who: DataFrame, stamp: str) -> None:
    """Delete by a join with data: neither the name nor its hash stands in a statement or a history."""
    who.createOrReplaceTempView(VIEW)
    statement = f"MERGE INTO {table} t USING {VIEW} s ON {on} WHEN MATCHED THEN DELETE"
    with commit_metadata(ctx.spark, stamp):
        retried(lambda: ctx.spark.sql(statement).collect())  # one row of counts
    ctx.spark.catalog.dropTempView(VIEW)


def _erase_history(ctx: Context, table: str) -> None:
    with commit_metadata(ctx.spark, metadata(job=JOB, fingerprint="")):
        ctx.spark.sql(f"REORG TABLE {table} APPLY (PURGE)").limit(1).count()
        vacuum_now(ctx.catalog, table)


def _learners(ctx: Context, removed: dict[str, int]) -> dict[str, Any]:
    """Training sets, models and exports that had seen the user: made from tables that held them."""
    sets = [table for table in ("samples", "scores", "training_set") if table in removed]
    models = {}
    kept = {name for name, arm in ctx.config.arms.items() if arm.rows == "kept"}
    for arm in ctx.root.entries("models"):
        pointer = ctx.root.read_json("models", arm, "current.json")
        # a model of an arm that is not configured any more may have seen either table
        tables = {"training_set"} if arm in kept else {"samples"}
        if arm not in (*ctx.config.arms, "pilot", "reference"):
            tables = {"training_set", "samples"}
        if pointer is not None and tables & set(removed):
            models[arm] = pointer.get("fingerprint", "unknown")
    exports = sorted(ctx.root.read_json(*EXPORTS) or {}) if sets else []
    found = {"training_sets": sets, "models": models}
    return {**found, "exports": exports} if exports else found
