"""Raw records in: JSON lines, CSV, Parquet or Delta, one row a record, unparsable ones kept as text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from sie_spark.platform.config import Source
from sie_spark.platform.config.load import digest
from sie_spark.platform.errors import SourceError
from sie_spark.platform.failures import readable, reason
from sie_spark.sources.drift import Raw
from sie_spark.sources.lines import read_csv, read_json
from sie_spark.sources.typed import MANY_FOOTERS, is_glob, read_delta, read_parquet

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

LISTING = (
    "basePath",
    "recursiveFileLookup",
    "pathGlobFilter",
    "maxFileAge",
    "maxFilesPerTrigger",
    "latestFirst",
)

CONTENT = (
    "path",
    "modificationTime",
    "length",
    "content",
)  # what Spark says of a file; others are folders' columns
INTO_FOLDERS = "set source.options.recursiveFileLookup: true, or give a glob that reaches them"


@dataclass(frozen=True)
class Snapshot:
    """What a source held when it was listed: the same digest means the same bytes."""

    files: int
    size: int
    digest: str
    names: tuple[str, ...] = ()  # file paths in order, at most MANY_FOOTERS + 1
    version: int | None = None
    below: int = 0  # files in plain folders of a directory, which Spark passes over


def snapshot(spark: SparkSession, settings: Source) -> Snapshot:
    """List the source; nothing is read.

    Raises
    ------
    SourceError
        when there is no path, no file, or no Delta table.
    """
    path = settings.path
    if not path:
        raise SourceError(
            "no source: dataset.source.path is not set", remedy="give --source FILE, DIRECTORY or GLOB"
        )
    with readable(path):
        if settings.format == "delta":
            row = spark.sql(f"DESCRIBE HISTORY delta.`{path}` LIMIT 1").select("version").first()
            version = int(row[0]) if row else 0
            made = spark.sql(f"DESCRIBE DETAIL delta.`{path}`").select("id").first()  # anew at the same place
            return Snapshot(1, 0, digest([path, str(made[0]) if made else "", version]), version=version)
        keep = {k: v for k, v in settings.options.items() if k in ("recursiveFileLookup", "pathGlobFilter")}
        listed = spark.read.format("binaryFile").options(**keep).load(path)
        files = listed.select("path", "length", F.col("modificationTime").cast("double").alias("modified"))
        total = files.agg(
            F.count("*"),
            F.sum("length"),
            F.sum(F.xxhash64("path", "length", "modified").cast("decimal(38,0)")),
        ).first()
        assert total is not None
        names = [row[0] for row in files.select("path").orderBy("path").limit(MANY_FOOTERS + 1).collect()]
        below, itself = 0, [_last(name) for name in names] == [_last(path)]
        folders_are_columns = len(listed.columns) > len(CONTENT)
        if "recursiveFileLookup" not in keep and not itself and not folders_are_columns:
            every = spark.read.format("binaryFile").options(**keep, recursiveFileLookup="true").load(path)
            below = every.select("path").count() - int(total[0])
    if not total[0]:
        raise SourceError(
            f"{path}: holds no records: "
            + ("its files lie in folders below" if below else "no files there, or only empty ones"),
            remedy=INTO_FOLDERS if below else "check --source (dataset.source.path)",
        )
    said = digest([str(value) for value in total])
    return Snapshot(int(total[0]), int(total[1] or 0), said, tuple(names), below=below)


def _last(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1]


def read(spark: SparkSession, settings: Source, files: Snapshot, *, stream: bool = False) -> Raw:
    """Read the records of a listed source.

    Raises
    ------
    SourceError
        for files that cannot be opened, a CSV without header and without declared columns, columns or
        types that the drift settings refuse.
    """
    assert settings.path is not None
    mode = next(
        (value for name, value in settings.options.items() if name.casefold() == "mode"), "PERMISSIVE"
    )
    if mode.upper() != "PERMISSIVE":
        raise SourceError(
            f"source.options.mode: {mode} loses records",
            remedy="leave it out: a record that cannot be parsed is quarantined as it came",
        )
    with readable(settings.path):
        schema = declared(settings)
        if settings.format == "delta":
            return read_delta(spark, settings, schema, version=files.version, stream=stream)
        reader = {"json": read_json, "csv": read_csv, "parquet": read_parquet}[settings.format]
        listing = _listing(settings, files, stream)
        return reader(spark, settings, schema, files=files.names, listing=listing, stream=stream)


def declared(settings: Source) -> StructType | None:
    """The expected source columns, or None where the YAML declares none."""
    if not settings.columns:
        return None
    from pyspark.errors import PySparkException

    try:
        schema = StructType.fromDDL(settings.columns)
    except PySparkException as error:
        raise SourceError(
            f"dataset.source.columns is not valid DDL: {reason(error)}",
            remedy="write it as in CREATE TABLE: 'ts BIGINT, user_id STRING, price DOUBLE'",
        ) from None
    assert isinstance(schema, StructType)
    seen: dict[str, str] = {}
    for name in schema.names:
        if (twin := seen.setdefault(name.casefold(), name)) is not name:
            raise SourceError(
                f"dataset.source.columns: '{twin}' and '{name}' are one name to Spark, which does not tell upper from"
                " lower case",
                remedy="declare one of them; the other is passed over, or kept apart by source.on_new_column: add",
            )
    return schema


def _listing(settings: Source, files: Snapshot, stream: bool) -> dict[str, str]:
    """Options of how files are found.

    Spark takes folders named column=value for columns below a directory, and below a glob only where it is
    told where they begin. A stream passes over files older than a week, which copies and archives keep being.
    """
    found = {name: value for name, value in settings.options.items() if name in LISTING}
    if stream:
        found = {"maxFileAge": "3650d", **found}
    parts = str(settings.path).split("/")
    glob = next((at for at, part in enumerate(parts) if is_glob(part)), None)
    if glob is None:
        return found
    fixed = "/".join(parts[:glob])
    below = [name.rpartition(f"{fixed}/")[2] if fixed else name for name in files.names]
    if any("=" in name.rpartition("/")[0] for name in below):
        first = next(at for at, part in enumerate(parts) if "=" in part or at == glob)
        found = {"basePath": "/".join(parts[:first]) or ("/" if parts[0] == "" else "."), **found}
    return found
