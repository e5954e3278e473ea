"""Raw records in: JSON lines, CSV, Parquet or Delta, one row a record, unparsable ones kept as text.

JSON and CSV fields are read as text and cast to the declared types here, so that a field of the wrong
type is a reason on its row and nothing is lost in a reader.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, DataType, MapType, StringType, StructField, StructType

from sie_spark.clickstream.failures import readable
from sie_spark.platform.config import Source
from sie_spark.platform.config.load import digest
from sie_spark.platform.errors import SourceError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

UNPARSED, FILE, DRIFT, EXTRA, TEXT = "_sie_unparsed", "_sie_file", "_sie_drift", "_sie_extra", "_sie_text"
SOURCE = "_sie_source"  # the record as it came, a struct: what a rejected row keeps
CORRUPT = "_sie_corrupt"
HELPERS = (UNPARSED, FILE, DRIFT, EXTRA, TEXT, SOURCE)
MANY_FILES = 256  # CSV headers looked at one by one; Spark itself checks the rest against them


@dataclass(frozen=True)
class Snapshot:
    """What a source held when it was listed: the same digest means the same bytes."""

    files: int
    size: int
    digest: str
    newest: tuple[str, ...] = ()  # file paths, at most MANY_FILES, in order
    version: int | None = None


@dataclass(frozen=True)
class Raw:
    """Records of a source: ``frame`` has ``columns`` (typed) and the helper columns ``HELPERS``.

    ``untyped``: columns that were text in the source, and the type they were cast to.
    """

    frame: DataFrame
    columns: list[str]
    untyped: dict[str, str]
    new_columns: list[str]


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
            return Snapshot(1, 0, digest([path, version]), version=version)
        keep = {k: v for k, v in settings.options.items() if k in ("recursiveFileLookup", "pathGlobFilter")}
        files = (
            spark.read.format("binaryFile")
            .options(**keep)
            .load(path)
            .select("path", "length", F.col("modificationTime").cast("double").alias("modified"))
        )
        total = files.agg(
            F.count("*"),
            F.sum("length"),
            F.sum(F.xxhash64("path", "length", "modified").cast("decimal(38,0)")),
        ).first()
        names = [row[0] for row in files.select("path").orderBy("path").limit(MANY_FILES).collect()]
    if total is None or not total[0]:
        raise SourceError(f"{path}: no files there", remedy="check --source (dataset.source.path)")
    return Snapshot(int(total[0]), int(total[1] or 0), digest([str(value) for value in total]), tuple(names))


def read(spark: SparkSession, settings: Source, files: Snapshot, *, stream: bool = False) -> Raw:
    """Read the records of a listed source.

    Raises
    ------
    SourceError
        for files that cannot be opened, a CSV without header and without declared columns, columns or
        types that the drift settings refuse.
    """
    assert settings.path is not None
    with readable(settings.path):
        if settings.format == "json":
            return _read_json(spark, settings, files, stream)
        if settings.format == "csv":
            return _read_csv(spark, settings, files, stream)
        return _read_typed(spark, settings, files, stream)


def declared(settings: Source) -> StructType | None:
    """The expected source columns, or None where the YAML declares none."""
    if not settings.columns:
        return None
    from pyspark.errors import PySparkException

    try:
        schema = StructType.fromDDL(settings.columns)
    except PySparkException as error:
        raise SourceError(
            f"dataset.source.columns is not valid DDL: {str(error).splitlines()[0][:200]}",
            remedy="write it as in CREATE TABLE: 'ts BIGINT, user_id STRING, price DOUBLE'",
        ) from None
    assert isinstance(schema, StructType)
    return schema


def _load(spark: SparkSession, format: str, path: str, options: dict[str, str], stream: bool) -> DataFrame:
    reader = spark.readStream if stream else spark.read
    return reader.format(format).options(**options).load(path)


def _read_json(spark: SparkSession, settings: Source, files: Snapshot, stream: bool) -> Raw:
    assert settings.path is not None
    schema = declared(settings) or _infer_json(spark, settings, files)
    options = {
        k: v for k, v in settings.options.items() if k in ("recursiveFileLookup", "pathGlobFilter", "lineSep")
    }
    lines = _load(spark, "text", settings.path, options, stream)
    partitions = [name for name in lines.columns if name != "value" and name not in schema.names]
    text_schema = StructType(
        [StructField(f.name, StringType()) for f in schema] + [StructField(CORRUPT, StringType())]
    )
    given = {"mode": "PERMISSIVE", "columnNameOfCorruptRecord": CORRUPT, **settings.options}
    record = F.from_json("value", text_schema, given)
    value = F.col("value")
    frame = lines.select(
        "value", *partitions, F.col("_metadata.file_name").alias(FILE), record.alias("_sie_record")
    )
    valid = F.is_valid_utf8("value")
    whole = (
        valid
        & F.ltrim(value).startswith("{")
        & F.rtrim(value).endswith("}")
        & F.col(f"_sie_record.{CORRUPT}").isNull()
        & ~_glued(value)
    )
    kept_text = F.when(valid, value).otherwise(F.concat(F.lit("base64:"), F.base64(value.cast("binary"))))
    keys = F.when(whole, F.json_object_keys("value"))
    new = F.array_except(keys, F.array(*[F.lit(name) for name in schema.names]))
    look = settings.on_new_column != "ignore"
    extra = F.from_json("value", "map<string,string>", {"mode": "PERMISSIVE"})
    known = F.array(*[F.lit(name) for name in schema.names])
    extra = F.map_filter(extra, lambda key, _: ~F.array_contains(known, key))
    drift = (
        F.coalesce(F.transform(new, lambda name: F.concat(F.lit("new_column:"), name)), _none())
        if look
        else _none()
    )
    if settings.on_missing_column == "quarantine":
        absent = F.array_except(known, F.coalesce(keys, known))
        drift = F.concat(drift, F.transform(absent, lambda name: F.concat(F.lit("missing_column:"), name)))
    frame = frame.select(
        *[F.col(f"_sie_record.`{name}`").alias(name) for name in schema.names],
        *partitions,
        FILE,
        F.when(~F.coalesce(whole, F.lit(False)), kept_text).alias(UNPARSED),
        drift.alias(DRIFT),
        (F.when(F.size(new) > 0, extra) if settings.on_new_column == "add" else _no_extra()).alias(EXTRA),
        value.alias(TEXT),
    )
    return _typed(frame, schema, partitions)


def _glued(value: Column) -> Column:
    """Two objects on one line: ``}`` and ``{`` meet outside of strings, where JSON wants a comma."""
    bare = F.regexp_replace(F.substring(value, 1, 100_000), r'"[^"\\]*"', '""')
    return F.when(value.rlike(r"\}\s*\{"), bare.rlike(r"\}\s*\{")).otherwise(F.lit(False))


def _infer_json(spark: SparkSession, settings: Source, files: Snapshot) -> StructType:
    sample = list(files.newest[:4]) or [str(settings.path)]
    options = {"mode": "PERMISSIVE", "columnNameOfCorruptRecord": CORRUPT, **settings.options}
    schema = spark.read.options(**options).json(sample).schema
    fields = [field for field in schema if field.name != CORRUPT]
    if not fields:
        raise SourceError(
            f"{settings.path}: no JSON object found",
            remedy="one JSON object a line is expected; check the file",
        )
    return StructType(fields)


def _read_csv(spark: SparkSession, settings: Source, files: Snapshot, stream: bool) -> Raw:
    assert settings.path is not None
    schema = declared(settings)
    options = {"mode": "PERMISSIVE", "columnNameOfCorruptRecord": CORRUPT, **settings.options}
    header = options.get("header", "false").lower() == "true"
    if not header:
        if schema is None:
            raise SourceError(
                f"{settings.path}: a CSV without header needs its columns declared",
                remedy="set dataset.source.columns, or source.options.header: 'true'",
            )
        groups = {tuple(schema.names): [settings.path]}
    else:
        groups = _headers(spark, options, files)
    parts = [
        _csv_part(
            spark,
            settings,
            options,
            names,
            paths if len(groups) > 1 else [settings.path],
            schema=schema,
            stream=stream,
        )
        for names, paths in groups.items()
    ]
    whole = parts[0]
    for part in parts[1:]:
        whole = Raw(
            whole.frame.unionByName(part.frame, allowMissingColumns=True),
            sorted({*whole.columns, *part.columns}, key=[*whole.columns, *part.columns].index),
            {**whole.untyped, **part.untyped},
            sorted({*whole.new_columns, *part.new_columns}),
        )
    return whole


def _headers(
    spark: SparkSession, options: dict[str, str], files: Snapshot
) -> dict[tuple[str, ...], list[str]]:
    groups: dict[tuple[str, ...], list[str]] = {}
    for path in files.newest:
        names = tuple(spark.read.options(**{**options, "inferSchema": "false"}).csv(path).columns)
        if names:  # an empty file has no header and no rows
            groups.setdefault(names, []).append(path)
    if not groups:
        raise SourceError("the CSV files are empty", remedy="check the source: not even a header is there")
    return groups


def _csv_part(
    spark: SparkSession,
    settings: Source,
    options: dict[str, str],
    names: tuple[str, ...],
    paths: Sequence[str],
    *,
    schema: StructType | None,
    stream: bool,
) -> Raw:
    text = StructType([StructField(name, StringType()) for name in (*names, CORRUPT)])
    reader = (spark.readStream if stream else spark.read).schema(text).options(**options)
    if options.get("header", "false").lower() == "true":
        reader = reader.option("enforceSchema", "false")
    lines = _csv_lines(reader, paths)
    partitions = [name for name in lines.columns if name not in text.names]
    fields = [field for field in (schema or StructType()) if field.name in names]
    new = [name for name in names if schema is not None and name not in schema.names]
    missing = [field.name for field in (schema or StructType()) if field.name not in (*names, *partitions)]
    drift = _drift(settings, new, missing)
    kept = [StructField(name, StringType()) for name in names if name not in new and schema is None]
    frame = lines.select(
        *[F.col(f"`{name}`") for name in names if name not in new],
        *partitions,
        F.col("_metadata.file_name").alias(FILE),
        F.col(CORRUPT).alias(UNPARSED),
        drift.alias(DRIFT),
        _extra(settings, new).alias(EXTRA),
        F.lit(None).cast("string").alias(TEXT),
    )
    frame = _add_nulls(frame, schema, missing)
    raw = _typed(frame, StructType(fields or kept), partitions)
    return Raw(raw.frame, [*raw.columns, *missing], raw.untyped, new)


def _read_typed(spark: SparkSession, settings: Source, files: Snapshot, stream: bool) -> Raw:
    """Parquet and Delta: the files know their types."""
    assert settings.path is not None
    schema = declared(settings)
    options = dict(settings.options)
    if settings.format == "parquet" and files.files > 1:
        options.setdefault("mergeSchema", "true")
    if settings.format == "delta" and files.version is not None and not stream:
        options.setdefault("versionAsOf", str(files.version))
    if stream and settings.format == "parquet":
        given = spark.read.options(**options).parquet(settings.path).schema
        rows = spark.readStream.schema(given).options(**settings.options).parquet(settings.path)
    else:
        rows = _load(spark, settings.format, settings.path, options, stream)
    names = rows.columns
    new = [name for name in names if schema is not None and name not in schema.names]
    missing = [field.name for field in (schema or StructType()) if field.name not in names]
    drift = _drift(settings, new, missing)
    columns: list[Column] = []
    reasons: list[Column] = []
    for name in names:
        if name in new:
            continue
        column = F.col(f"`{name}`")
        wanted = schema[name].dataType if schema is not None else rows.schema[name].dataType
        actual = rows.schema[name].dataType
        if not _widens(actual, wanted):
            columns.append(_cast(column.cast("string"), wanted).alias(name))
            reasons.append(_retyped(settings, name, actual, wanted, column))
        else:
            columns.append(column.cast(wanted).alias(name) if actual != wanted else column)
    drift = F.concat(drift, F.array_compact(F.array(*reasons))) if reasons else drift
    frame = rows.select(
        *columns,
        F.col("_metadata.file_name").alias(FILE),
        F.lit(None).cast("string").alias(UNPARSED),
        drift.alias(DRIFT),
        _extra(settings, new).alias(EXTRA),
        F.lit(None).cast("string").alias(TEXT),
        F.struct(*[F.col(f"`{name}`") for name in names]).alias(SOURCE),
    )
    frame = _add_nulls(frame, schema, missing)
    return Raw(frame, [name for name in frame.columns if name not in HELPERS], {}, new)


def _csv_lines(reader: Any, paths: Sequence[str]) -> DataFrame:
    frame: DataFrame = reader.format("csv").load(paths[0] if len(paths) == 1 else list(paths))
    return frame


def _drift(settings: Source, new: Sequence[str], missing: Sequence[str]) -> Column:
    """Reasons that every row of a file with drifted columns carries; refuses where the settings say so."""
    if new and settings.on_new_column == "refuse":
        raise SourceError(
            f"{settings.path}: new column(s) {', '.join(new)} that dataset.source.columns does not declare",
            remedy="declare them, or set source.on_new_column to ignore, add or quarantine",
        )
    if missing and settings.on_missing_column == "refuse":
        raise SourceError(
            f"{settings.path}: declared column(s) {', '.join(missing)} are missing",
            remedy="mend the source or dataset.source.columns, or set source.on_missing_column to null",
        )
    reasons = [f"new_column:{name}" for name in new if settings.on_new_column == "quarantine"]
    reasons += [f"missing_column:{name}" for name in missing if settings.on_missing_column == "quarantine"]
    return F.array(*[F.lit(reason) for reason in reasons]).cast("array<string>") if reasons else _none()


def _retyped(settings: Source, name: str, actual: DataType, wanted: DataType, column: Column) -> Column:
    if settings.on_type_change == "refuse":
        raise SourceError(
            f"{settings.path}: column '{name}' is {actual.simpleString()}, declared {wanted.simpleString()}",
            remedy="change dataset.source.columns, or set source.on_type_change to cast or quarantine",
        )
    if settings.on_type_change == "quarantine":
        return F.lit(f"type_change:{name}")
    failed = column.isNotNull() & _cast(column.cast("string"), wanted).isNull()
    return F.when(failed, F.lit(f"type:{name}"))


def _extra(settings: Source, new: Sequence[str]) -> Column:
    if settings.on_new_column != "add" or not new:
        return _no_extra()
    pairs = [part for name in new for part in (F.lit(name), F.col(f"`{name}`").cast("string"))]
    return F.map_filter(F.create_map(*pairs), lambda _, value: value.isNotNull())


def _add_nulls(frame: DataFrame, schema: StructType | None, missing: Sequence[str]) -> DataFrame:
    for name in missing:
        assert schema is not None
        frame = frame.withColumn(name, F.lit(None).cast(schema[name].dataType))
    return frame


def _typed(frame: DataFrame, schema: StructType, partitions: Sequence[str]) -> Raw:
    """Cast text to the declared types; a text that does not fit becomes null and a reason in DRIFT."""
    columns: list[Column] = []
    reasons: list[Column] = []
    untyped: dict[str, str] = {}
    parsed = F.col(UNPARSED).isNull()
    for field in schema:
        text = F.col(f"`{field.name}`")
        if isinstance(field.dataType, StringType):
            columns.append(text)
            continue
        typed = _cast(text, field.dataType)
        columns.append(typed.alias(field.name))
        failed = parsed & text.isNotNull() & (F.trim(text) != "") & typed.isNull()
        reasons.append(F.when(failed, F.lit(f"type:{field.name}")))
        untyped[field.name] = field.dataType.simpleString()
    others = [F.col(f"`{n}`") for n in frame.columns if n not in (*schema.names, *HELPERS)]
    drift = F.concat(DRIFT, F.array_compact(F.array(*reasons))) if reasons else F.col(DRIFT)
    source = F.struct(*[F.col(f"`{name}`") for name in (*schema.names, *partitions)])
    typed_frame = frame.select(
        *columns, *others, FILE, UNPARSED, drift.alias(DRIFT), EXTRA, TEXT, source.alias(SOURCE)
    )
    return Raw(typed_frame, [*schema.names, *partitions], untyped, [])


def _cast(text: Column, wanted: DataType) -> Column:
    if isinstance(wanted, (ArrayType, MapType, StructType)):
        return F.from_json(text, cast(StructType, wanted), {"mode": "PERMISSIVE"})
    return F.trim(text).try_cast(wanted)


def _widens(actual: DataType, wanted: DataType) -> bool:
    """Whether every value of one type has the same value in the other."""
    if actual == wanted or actual.simpleString() == wanted.simpleString():
        return True
    order = ["tinyint", "smallint", "int", "bigint"]
    a, w = actual.simpleString(), wanted.simpleString()
    if a in order and w in order:
        return order.index(a) <= order.index(w)
    return (a, w) in {("float", "double"), ("int", "double"), ("smallint", "double"), ("date", "timestamp")}


def _none() -> Column:
    return F.array().cast("array<string>")


def _no_extra() -> Column:
    return F.lit(None).cast("map<string,string>")
