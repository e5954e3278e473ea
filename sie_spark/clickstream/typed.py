"""Parquet and Delta sources: the files know their types, which may not be the declared ones."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow
from pyarrow import parquet
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import DataType, LongType, StructType, TimestampNTZType, TimestampType

from sie_spark.clickstream.drift import (
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
from sie_spark.platform.config import Source
from sie_spark.platform.root import locate

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

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
    return _judged(reader.format("delta").options(**options).load(settings.path), settings, schema)


def read_parquet(
    spark: SparkSession,
    settings: Source,
    schema: StructType | None,
    *,
    files: Sequence[str],
    listing: dict[str, str],
    stream: bool,
) -> Raw:
    """Parquet files; where columns are declared, the files of each layout are judged by themselves."""
    assert settings.path is not None
    options = {**settings.options, **listing}
    groups = _layouts(files) if schema is not None and not stream else []
    if len(groups) > 1:
        if not is_glob(settings.path):
            options.setdefault("basePath", settings.path)  # folders named column=value stay columns
        first, *others = [
            # what is wrong with a layout is said of its first file
            _judged(
                spark.read.options(**options).parquet(*paths),
                settings.model_copy(update={"path": paths[0]}),
                schema,
                clocks=_clocks(paths),
            )
            for paths in groups
        ]
        return replace(first, others=tuple(others))
    if len(files) > 1:
        options.setdefault("mergeSchema", "true")
    rows = spark.read.options(**options).parquet(settings.path)
    if stream:
        rows = spark.readStream.schema(rows.schema).options(**options).parquet(settings.path)
    return _judged(rows, settings, schema, clocks=_clocks(files))


def is_glob(path: str) -> bool:
    """Whether a path stands for several."""
    return any(letter in path for letter in "*?[{")


def _layouts(files: Sequence[str]) -> list[list[str]]:
    """The Parquet files by their columns and types, from their footers; none where they are too many.

    None too where a footer cannot be read here: Spark, which may read what Arrow cannot, then merges their
    columns, or says what is wrong with the file.
    """
    if not 1 < len(files) <= MANY_FOOTERS:
        return []
    groups: dict[str, list[str]] = {}
    try:
        with ThreadPoolExecutor(16) as pool:
            for path, columns in zip(files, pool.map(_footer, files), strict=True):
                if columns is not None:
                    groups.setdefault(columns, []).append(path)
    except (pyarrow.ArrowException, OSError):
        return []
    return list(groups.values())


def _footer(path: str) -> str | None:
    """Names and types of a Parquet file's columns; None for what Spark passes over too."""
    schema = _arrow_schema(path)
    return None if schema is None else ", ".join(sorted(f"{field.name} {field.type}" for field in schema))


def _arrow_schema(path: str) -> pyarrow.Schema | None:
    filesystem, name = locate(path)
    if Path(name).name.startswith(("_", ".")):
        return None
    return parquet.read_schema(name, filesystem=filesystem)


def _clocks(files: Sequence[str]) -> dict[str, bool]:
    """Columns of nanoseconds in the first file, and whether their zone is known: Spark has no type for them."""
    try:
        schema = next((found for path in files if (found := _arrow_schema(path)) is not None), None)
    except (pyarrow.ArrowException, OSError):  # Spark says what is wrong with it
        return {}
    times = [field for field in schema or () if pyarrow.types.is_timestamp(field.type)]
    return {field.name: field.type.tz is not None for field in times if field.type.unit == "ns"}


def _read_as(rows: DataFrame, name: str, clocks: dict[str, bool]) -> tuple[Column, DataType]:
    """A column and its type; nanoseconds, which are read as numbers (see ``tables.EXPRESSIONS``), as times."""
    actual = rows.schema[name].dataType
    if name not in clocks or not isinstance(actual, LongType):
        return F.col(f"`{name}`"), actual
    time = F.expr(f"timestamp_micros(`{name}` div 1000)")
    return (time, TimestampType()) if clocks[name] else (time.cast("timestamp_ntz"), TimestampNTZType())


def _judged(
    rows: DataFrame, settings: Source, schema: StructType | None, *, clocks: dict[str, bool] | None = None
) -> Raw:
    names = rows.columns
    new = [name for name in names if schema is not None and name not in schema.names]
    missing = [field.name for field in (schema or StructType()) if field.name not in names]
    drift = drift_reasons(settings, new, missing)
    columns: list[Column] = []
    reasons: list[Column] = []
    for name in names:
        if name in new:
            continue
        column, actual = _read_as(rows, name, clocks or {})
        wanted = schema[name].dataType if schema is not None else actual
        if not widens(actual, wanted):
            columns.append(cast_text(column.cast("string"), wanted).alias(name))
            reasons.append(retyped_reason(settings, column, name, actual=actual, wanted=wanted))
        else:
            columns.append((column.cast(wanted) if actual != wanted else column).alias(name))
    drift = F.concat(drift, F.array_compact(F.array(*reasons))) if reasons else drift
    frame = rows.select(
        *columns,
        F.col("_metadata.file_name").alias(FILE),
        F.lit(None).cast("string").alias(UNPARSED),
        drift.alias(DRIFT),
        extra_columns(settings, new).alias(EXTRA),
        whole_text(names, new).alias(TEXT),
        F.struct(*[F.col(f"`{name}`") for name in names if name not in new] or [F.lit(None)]).alias(SOURCE),
    )
    frame = add_nulls(frame, schema, missing)
    return Raw(frame, [name for name in frame.columns if name not in HELPERS], {}, new)
