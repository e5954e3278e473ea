"""Parquet and Delta sources: the files know their types, which may not be the declared ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow
from pyarrow import parquet
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import (
    DataType,
    LongType,
    StringType,
    StructField,
    StructType,
    TimestampNTZType,
    TimestampType,
)

from sie_spark.platform.config import Source
from sie_spark.platform.errors import SourceError
from sie_spark.platform.root import locate
from sie_spark.sources.drift import (
    DRIFT,
    EXTRA,
    FILE,
    HELPERS,
    SOURCE,
    TEXT,
    UNPARSED,
    Raw,
    add_nulls,
    cast_text,
    drift_reasons,
    extra_columns,
    retyped_reason,
    whole_text,
    widens,
)

if TYPE_CHECKING:
    from pyspark.sql import DataFrameReader, SparkSession

MANY_FOOTERS = 4096  # Parquet files whose columns are looked at one by one; of more, all columns are merged


def read_delta(
    spark: SparkSession, settings: Source, schema: StructType | None, *, version: int | None, stream: bool
) -> Raw:
    """A Delta table at a version, or as a stream."""
    assert settings.path is not None
    options = dict(settings.options)
    if version is not None and not stream:
        options.setdefault("versionAsOf", str(version))
    reader = spark.readStream if stream else spark.read
    rows = reader.format("delta").options(**options).load(settings.path)
    return _judged(rows, settings, schema, file=F.lit(None).cast("string") if stream else None)


def read_parquet(
    spark: SparkSession,
    settings: Source,
    schema: StructType | None,
    *,
    files: Sequence[str],
    listing: dict[str, str],
    stream: bool,
) -> Raw:
    """Parquet files; the files of each layout are judged by themselves where columns are declared.

    So are they where only some hold a time in nanoseconds, which Spark reads as a number: their columns are put
    together here.
    """
    source = settings.path
    assert source is not None
    options = {**settings.options, **listing}
    footers = _footers(files)
    groups, mixed = _layouts(footers), _mixed(footers)
    if mixed and stream:
        raise SourceError(
            f"{mixed}; an incremental source reads all its files alike",
            remedy="write the column as timestamp[us] in every file, or set source.incremental: false",
        )
    if len(groups) > 1 and not stream and (schema is not None or mixed):
        if not is_glob(source):
            options.setdefault("basePath", source)  # folders named column=value stay columns
        layouts = [
            _Layout(
                _load(spark.read.options(**options), paths, schema), paths[0], _clocks([footers[paths[0]]])
            )
            for paths in groups
        ]
        # null, as in columns that Spark merges
        settings = settings if schema else settings.model_copy(update={"on_missing_column": "null"})
        wanted = schema or _as_one(layouts)
        first, *others = [
            # what is wrong with a layout is said of its first file
            _judged(one.rows, settings.model_copy(update={"path": one.file}), wanted, one.clocks)
            for one in layouts
        ]
        return replace(first, others=tuple(others))
    if len(files) > 1:
        options.setdefault("mergeSchema", "true")
    rows = _load(spark.read.options(**options), [source], schema, files)
    if stream:
        rows = spark.readStream.schema(rows.schema).options(**options).parquet(source)
    return _judged(rows, settings, schema, _clocks(footers.values()))


def _load(
    reader: DataFrameReader,
    paths: Sequence[str],
    schema: StructType | None,
    files: Sequence[str] | None = None,
) -> DataFrame:
    """Parquet files; folders named after a column that is declared as text give what is written there.

    Spark makes numbers of what looks like one: of ``store=007`` it reads 7.
    """
    rows = reader.parquet(*paths)
    folders = {
        part.partition("=")[0] for path in files or paths for part in path.split("/")[:-1] if "=" in part
    }
    written = {field.name for field in schema or () if field.dataType == StringType()} & folders
    if all(field.dataType == StringType() for field in rows.schema if field.name in written):
        return rows
    fields = [StructField(one.name, StringType()) if one.name in written else one for one in rows.schema]
    return reader.schema(StructType(fields)).parquet(*paths)


def is_glob(path: str) -> bool:
    """Whether a path stands for several."""
    return any(letter in path for letter in "*?[{")


@dataclass(frozen=True)
class _Layout:
    """Parquet files of the same columns: their rows, the first of them, and its columns of nanoseconds."""

    rows: DataFrame
    file: str
    clocks: dict[str, bool]


def _footers(files: Sequence[str]) -> dict[str, pyarrow.Schema]:
    """The Arrow schema of each Parquet file; of the first file alone where they are too many.

    Of the first alone too where a footer cannot be read here: Spark, which may read what Arrow cannot, then merges
    their columns, or says what is wrong with the file.
    """
    asked = files if len(files) <= MANY_FOOTERS else files[:1]
    try:
        with ThreadPoolExecutor(16) as pool:
            found = zip(asked, pool.map(_footer, asked), strict=True)
            return {path: schema for path, schema in found if schema is not None}
    except (pyarrow.ArrowException, OSError):
        return _footers(files[:1]) if len(asked) > 1 else {}


def _footer(path: str) -> pyarrow.Schema | None:
    """Names and types of a Parquet file's columns; None for what Spark passes over too."""
    filesystem, name = locate(path)
    if Path(name).name.startswith(("_", ".")):
        return None
    return parquet.read_schema(name, filesystem=filesystem)


def _layouts(footers: Mapping[str, pyarrow.Schema]) -> list[list[str]]:
    """The files by their columns and types."""
    groups: dict[str, list[str]] = {}
    for path, schema in footers.items():
        columns = ", ".join(sorted(f"{field.name} {field.type}" for field in schema))
        groups.setdefault(columns, []).append(path)
    return list(groups.values())


def _mixed(footers: Mapping[str, pyarrow.Schema]) -> str | None:
    """What is said of the first column that a file holds as nanoseconds and another file as something else."""
    seen: dict[str, tuple[str, pyarrow.Field, bool | None]] = {}
    for path, schema in footers.items():
        clocks = _clocks([schema])
        for field in schema:
            file, first, clock = seen.setdefault(field.name, (path, field, clocks.get(field.name)))
            if clocks.get(field.name) != clock:
                return f"{path}: column '{field.name}' is {field.type}, and in {file} it is {first.type}"
    return None


def _clocks(schemas: Iterable[pyarrow.Schema]) -> dict[str, bool]:
    """Columns of nanoseconds, and whether their zone is known: Spark has no type for them."""
    times = [field for schema in schemas for field in schema if pyarrow.types.is_timestamp(field.type)]
    return {field.name: field.type.tz is not None for field in times if field.type.unit == "ns"}


def _as_one(layouts: Sequence[_Layout]) -> StructType:
    """The columns of all layouts, times in nanoseconds as times; a type must be the same wherever it is."""
    found: dict[str, tuple[DataType, str]] = {}
    for layout in layouts:
        for name in layout.rows.columns:
            _, actual = _read_as(layout.rows, name, layout.clocks)
            first, file = found.setdefault(name, (actual, layout.file))
            if first != actual:
                raise SourceError(
                    f"{layout.file}: column '{name}' is {actual.simpleString()}, and in {file} it is"
                    f" {first.simpleString()}",
                    remedy="declare dataset.source.columns, and source.on_type_change: cast or quarantine",
                )
    return StructType([StructField(name, type_) for name, (type_, _) in found.items()])


def _read_as(rows: DataFrame, name: str, clocks: dict[str, bool]) -> tuple[Column, DataType]:
    """A column and its type; nanoseconds, which are read as numbers (see ``tables.EXPRESSIONS``), as times."""
    actual = rows.schema[name].dataType
    if name not in clocks or not isinstance(actual, LongType):
        return F.col(f"`{name}`"), actual
    time = F.expr(f"timestamp_micros(`{name}` div 1000)")
    return (time, TimestampType()) if clocks[name] else (time.cast("timestamp_ntz"), TimestampNTZType())


def _judged(
    rows: DataFrame,
    settings: Source,
    schema: StructType | None,
    clocks: dict[str, bool] | None = None,
    *,
    file: Column | None = None,
) -> Raw:
    """``file``: where the rows themselves do not know their file, as those of a Delta stream."""
    names = rows.columns
    new = [name for name in names if schema is not None and name not in schema.names]
    missing = [field.name for field in (schema or StructType()) if field.name not in names]
    drift = drift_reasons(settings, new, missing)
    columns: list[Column] = []
    reasons: list[Column] = []
    untyped: dict[str, str] = {}
    for name in names:
        if name in new:
            continue
        column, actual = _read_as(rows, name, clocks or {})
        wanted = schema[name].dataType if schema is not None else actual
        if not widens(actual, wanted):
            columns.append(cast_text(column.cast("string"), wanted).alias(name))
            reasons.append(retyped_reason(settings, column, name, actual=actual, wanted=wanted))
            untyped[name] = wanted.simpleString()
        else:
            columns.append((column.cast(wanted) if actual != wanted else column).alias(name))
    drift = F.concat(drift, F.array_compact(F.array(*reasons))) if reasons else drift
    frame = rows.select(
        *columns,
        (F.col("_metadata.file_name") if file is None else file).alias(FILE),
        F.lit(None).cast("string").alias(UNPARSED),
        drift.alias(DRIFT),
        extra_columns(settings, new).alias(EXTRA),
        whole_text(names, new).alias(TEXT),
        F.struct(*[F.col(f"`{name}`") for name in names if name not in new] or [F.lit(None)]).alias(SOURCE),
    )
    frame = add_nulls(frame, schema, missing)
    return Raw(frame, [name for name in frame.columns if name not in HELPERS], untyped)
