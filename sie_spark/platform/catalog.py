"""Every table: its name, place, partitions, properties and the few ways it may be written."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from sie_spark import __version__
from sie_spark.platform.errors import PlatformError, StageOrderError
from sie_spark.platform.result import TableRef
from sie_spark.platform.root import Root, read_bytes

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

RETENTION = {
    "delta.logRetentionDuration": "interval 30 days",
    "delta.deletedFileRetentionDuration": "interval 30 days",
}
RECENT = 500  # commits looked back at for the last one that changed rows
TIME = "event_ts"
FIRST = "00000000000000000000.json"  # the first commit; Delta removes old ones in time
CONFLICTS = (
    "DELTA_CONCURRENT",
    "ConcurrentAppend",
    "ConcurrentWrite",
    "ConcurrentDelete",
    "DELTA_METADATA_CHANGED",
    "DELTA_PROTOCOL_CHANGED",  # two that make the same table
)
ATTEMPTS = 6
MAINTENANCE = (
    "OPTIMIZE",
    "REORG",
    "VACUUM START",
    "VACUUM END",
    "SET TBLPROPERTIES",
    "ADD CONSTRAINT",
    "CREATE TABLE",
    "CLUSTER BY",
)


Result = TypeVar("Result")


@dataclass(frozen=True)
class TableSpec:
    """How a table is laid out and which stage writes it."""

    written_by: str
    partition_by: tuple[str, ...] = ("event_date",)
    properties: dict[str, str] = field(default_factory=dict)


TABLES: dict[str, TableSpec] = {
    "truth": TableSpec("simulate"),
    "events": TableSpec("ingest"),
    "quarantine": TableSpec("ingest"),
    "impressions": TableSpec("impressions"),
    "daily_counts": TableSpec("impressions"),
    "samples": TableSpec("encode", ("split", "event_date")),
    "scores": TableSpec("score", ("event_date",)),
    # read by torch straight from Parquet: neither deletion vectors nor column mapping
    "training_set": TableSpec(
        "weigh", ("arm", "split", "event_date"), {"delta.enableDeletionVectors": "false"}
    ),
    "predictions": TableSpec("evaluate", ("arm", "event_date")),
    "metrics": TableSpec("evaluate", ()),
}


class Catalog:
    """Reads and writes the tables under one root.

    Parameters
    ----------
    spark:
        classic or Connect.
    root:
        where the tables lie.
    """

    def __init__(self, spark: SparkSession, root: Root) -> None:
        self.spark = spark
        self.root = root
        self._rows: dict[tuple[str, str], int] = {}  # of a version they never change

    def path(self, name: str) -> str:
        """Where a table lies."""
        if name not in TABLES:
            raise KeyError(f"no table '{name}'; tables: {', '.join(TABLES)}")
        return self.root.path("tables", name)

    def sql_name(self, name: str) -> str:
        """The table in SQL."""
        return f"delta.`{self.path(name)}`"

    def exists(self, name: str) -> bool:
        """Whether the table has a first commit."""
        return has_commits(self.root, "tables", name)

    def identity(self, name: str) -> str:
        """What tells a table from another that was made anew in its place, with the same versions."""
        # DESCRIBE DETAIL counts all its files for it; the first commit, while it is kept, says it
        first = ("tables", name, "_delta_log", FIRST)
        if self.root.exists(*first):
            for line in read_bytes(self.root.path(*first)).splitlines():
                if line.startswith(b'{"metaData"'):
                    return str(json.loads(line)["metaData"]["id"])
        row = self.spark.sql(f"DESCRIBE DETAIL {self.sql_name(name)}").select("id").first()
        assert row is not None
        return str(row[0])

    def read(self, name: str, *, version: int | None = None) -> DataFrame:
        """The table, at a version or at its newest.

        Raises
        ------
        StageOrderError
            when the stage that writes it has not run.
        """
        self.require(name)
        reader = self.spark.read.format("delta")
        if version is not None:
            reader = reader.option("versionAsOf", version)
        return reader.load(self.path(name))

    def require(self, name: str) -> None:
        """Raise unless the table exists."""
        if not self.exists(name):
            stage = TABLES[name].written_by
            raise StageOrderError(
                f"table '{name}' does not exist under {self.root.uri}",
                remedy=f"run 'sie {stage}' with the same --root and --config first, or 'sie run' for all stages",
            )

    def version(self, name: str) -> int:
        """The newest version.

        Raises
        ------
        StageOrderError
            when the stage that writes the table has not run.
        """
        self.require(name)
        row = self.spark.sql(f"DESCRIBE HISTORY {self.sql_name(name)} LIMIT 1").select("version").first()
        assert row is not None
        return int(row[0])

    def ref(self, name: str) -> TableRef:
        """Path, version and rows (from what commits say or Delta's statistics, not a scan)."""
        self.require(name)
        history = self.spark.sql(f"DESCRIBE HISTORY {self.sql_name(name)} LIMIT {RECENT}")
        columns = ("version", "operation", "operationParameters", "operationMetrics", "userMetadata")
        commits = sorted(history.select(*columns).collect(), key=lambda commit: -commit[0])  # at most RECENT
        version = int(commits[0][0])
        newest = next((commit for commit in commits if commit[1] not in MAINTENANCE), None)
        # a table that only maintenance touched for longer than its history is kept has not changed
        content = (
            f"{newest[0]}-{stamp_of(newest[4]).get('fingerprint', '')}" if newest else self.identity(name)
        )
        known = (name, f"{version} {content}")
        if known not in self._rows:
            said = rows_said([(commit[1], commit[2] or {}, commit[3] or {}) for commit in commits])
            self._rows[known] = self.read(name, version=version).count() if said is None else said
        return TableRef(self.path(name), version, self._rows[known], content)

    def fingerprint(self, name: str, *, scope: str = "") -> str | None:
        """The fingerprint that the newest data commit of this scope carries, or None."""
        for stored in self._stamps(name):
            if stored.get("scope", "") == scope:
                return stored.get("fingerprint")
            if not scope:
                return None
        return None

    def dates_since(self, name: str, content: str) -> list[tuple[str, str]] | None:
        """First and last date of each commit that rewrote some dates since a content; None where one rewrote more.

        Parameters
        ----------
        content:
            of a :class:`TableRef` that was read before.
        """
        since = content.partition("-")[0]
        if not since.isdigit() or not self.exists(name):
            return None
        history = self.spark.sql(f"DESCRIBE HISTORY {self.sql_name(name)} LIMIT {RECENT}")
        commits = history.select("version", "operation", "userMetadata").collect()  # at most RECENT
        if not any(int(version) == int(since) for version, _, _ in commits):
            return None
        found = []
        for version, operation, text in commits:
            if int(version) <= int(since) or operation in MAINTENANCE:
                continue
            first, dots, last = stamp_of(text).get("scope", "").partition("..")
            if not dots:
                return None
            found.append((first or "0001-01-01", last or "9999-12-31"))
        return sorted(set(found))

    def said(self, name: str, key: str) -> str | None:
        """What the newest data commit that has this key in its stamp says under it, or None."""
        return next((stamp[key] for stamp in self._stamps(name) if key in stamp), None)

    def whole_history(self, name: str) -> list[dict[str, str]] | None:
        """The stamps of all data commits since a table was made or replaced as a whole; None where some are gone."""
        history = self.spark.sql(f"DESCRIBE HISTORY {self.sql_name(name)} LIMIT {RECENT}")
        columns = ("version", "operation", "operationParameters", "userMetadata")
        found = []
        commits = history.select(*columns).collect()  # at most RECENT
        for version, operation, parameters, text in sorted(commits, key=lambda commit: -commit[0]):
            if operation not in MAINTENANCE:
                found.append(stamp_of(text))
            replaced = operation == "WRITE" and (parameters or {}).get("mode") == "Overwrite"
            if version == 0 or (replaced and "predicate" not in parameters):
                return found
        return None

    def _stamps(self, name: str) -> list[dict[str, str]]:
        """The stamps of the newest data commits, the newest first; none where there is no table."""
        if not self.exists(name):
            return []
        history = self.spark.sql(f"DESCRIBE HISTORY {self.sql_name(name)} LIMIT {RECENT}")
        commits = history.select("version", "operation", "userMetadata").collect()  # at most RECENT
        commits = sorted(commits, key=lambda commit: -commit[0])
        return [stamp_of(text) for _, operation, text in commits if operation not in MAINTENANCE]

    def replace(
        self,
        frame: DataFrame,
        name: str,
        *,
        where: str | None = None,
        fingerprint: str,
        job: str,
        scope: str = "",
    ) -> TableRef:
        """Replace the rows that a literal predicate names (all rows without one), in one commit.

        ``where`` over partition columns, e.g. ``event_date >= '2024-01-01' AND event_date <= '2024-01-02'``.
        """

        def write() -> None:
            spec = TABLES[name]
            writer = (
                frame.write.format("delta")
                .mode("overwrite")
                .option("userMetadata", metadata(job=job, fingerprint=fingerprint, scope=scope))
            )
            if spec.partition_by:
                writer = writer.partitionBy(*spec.partition_by)
            if not self.exists(name):
                for key, value in {**RETENTION, **statistics(frame.columns), **spec.properties}.items():
                    writer = writer.option(key, value)
            elif where:
                writer = writer.option("replaceWhere", where)
            else:
                writer = writer.option("overwriteSchema", "true")
            writer.save(self.path(name))

        retried(write)
        return self.ref(name)


def has_commits(root: Root, *parts: str) -> bool:
    """Whether a Delta table has a first commit: a writer that is killed leaves a log without one."""
    return any(root.exists(*parts, "_delta_log", file) for file in (FIRST, "_last_checkpoint"))


def retried(action: Callable[[], Result]) -> Result:
    """Run a Delta write again when another writer's commit came in between.

    That writer may be another job, or the query of a Spark Connect client that was killed: the server goes on
    with it for a while.

    Raises
    ------
    PlatformError
        when it does not stop writing.
    """
    from pyspark.errors import PySparkException

    for attempt in range(1, ATTEMPTS + 1):
        try:
            return action()
        except PySparkException as error:
            if not any(word in str(error) for word in CONFLICTS):
                raise
            if attempt == ATTEMPTS:
                raise PlatformError(
                    f"another job kept writing to the same table ({ATTEMPTS} attempts)",
                    remedy="run the same command again when the other job has ended",
                ) from None
            time.sleep(random.uniform(0.2, 0.5) * 2**attempt)
    raise AssertionError("unreachable")


def rows_said(commits: Iterable[tuple[str, dict[str, str], dict[str, str]]]) -> int | None:
    """Rows of a table by the commits since it was made or replaced as a whole; None where they do not say it.

    Parameters
    ----------
    commits:
        operation, its parameters and its metrics, the newest first.
    """
    since = 0
    for operation, parameters, metrics in commits:
        in_part = "predicate" in parameters or parameters.get("isDynamicPartitionOverwrite") == "true"
        if operation == "CREATE TABLE":
            return since
        if operation == "WRITE" and "numOutputRows" in metrics and not in_part:
            since += int(metrics["numOutputRows"])
            if parameters.get("mode") == "Overwrite":
                return since
        elif operation == "MERGE" and {"numTargetRowsInserted", "numTargetRowsDeleted"} <= metrics.keys():
            since += int(metrics["numTargetRowsInserted"]) - int(metrics["numTargetRowsDeleted"])
        elif operation not in MAINTENANCE:
            return None
    return None


def statistics(columns: Sequence[str], *, clustered: Sequence[str] = ()) -> dict[str, str]:
    """Which columns Delta keeps minima and maxima of: times and clustering columns.

    Everything else here is a hash, an array or a feature: no predicate prunes files by it, and collecting
    its extremes costs a tenth of a write.
    """
    kept = [name for name in (TIME, *clustered) if name in columns]
    if kept:
        return {"delta.dataSkippingStatsColumns": ",".join(kept)}
    return {"delta.dataSkippingNumIndexedCols": "0"}


def metadata(*, job: str, fingerprint: str, scope: str = "", **more: str) -> str:
    """What every commit says about itself."""
    stamp = {"job": job, "fingerprint": fingerprint, "code": __version__, **more}
    if scope:
        stamp["scope"] = scope
    return json.dumps(stamp, sort_keys=True)


def stamp_of(text: str | None) -> dict[str, str]:
    """What a commit says about itself; nothing where another program made it."""
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def dates_predicate(first: str, last: str, *, column: str = "event_date") -> str:
    """A literal date range for ``replaceWhere`` and MERGE."""
    return f"{column} >= DATE'{first}' AND {column} <= DATE'{last}'"


def union_of_dates(dates: Iterable[str], *, column: str = "event_date") -> str:
    """A literal list of dates, for partition pruning."""
    ordered: Sequence[str] = sorted(set(dates))
    return f"{column} IN ({', '.join(f'DATE{chr(39)}{day}{chr(39)}' for day in ordered)})"
