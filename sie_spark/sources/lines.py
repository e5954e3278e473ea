"""Sources of text, a record a line: JSON lines and CSV.

Fields are read as text and cast to the declared types, so that a field of the wrong type is a reason on its row
and nothing is lost in a reader.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from operator import add, or_
from typing import TYPE_CHECKING, Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, MapType, StringType, StructField, StructType

from sie_spark.platform.config import Source
from sie_spark.platform.errors import SourceError
from sie_spark.sources.drift import (
    CORRUPT,
    DRIFT,
    EXTRA,
    FILE,
    MASK_BITS,
    MISSING_COLUMN,
    NEW_COLUMN,
    REPEATED,
    REPLACED,
    SOURCE,
    TEXT,
    UNPARSED,
    Raw,
    add_nulls,
    both,
    drift_reasons,
    extra_columns,
    no_extra,
    no_reasons,
    prefixed,
    typed_from_text,
    whole_text,
)
from sie_spark.sources.typed import is_glob

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

NESTED = (ArrayType, MapType, StructType)
KEEP = ("add", "quarantine")  # what becomes of undeclared columns where they are not dropped or refused
MAX_COLUMNS = "200000"  # fields of a CSV line; with more the file cannot be read
MANY_FILES = 256  # CSV headers looked at one by one; Spark itself checks the rest against them
SAMPLED_FILES = 16  # JSON files that undeclared columns are inferred from


def read_json(
    spark: SparkSession,
    settings: Source,
    declared: StructType | None,
    *,
    files: Sequence[str],
    listing: dict[str, str],
    stream: bool,
) -> Raw:
    """JSON lines: one pass over the text gives the values and the names of all columns, declared or not."""
    assert settings.path is not None
    wanted = declared or _infer_json(spark, settings, files)
    options = dict(listing)
    options |= {name: value for name, value in settings.options.items() if name == "lineSep"}
    reader = spark.readStream if stream else spark.read
    reader = reader.format("text").options(**options)
    lines = _with_folders(reader, StructType([StructField("value", StringType())]), settings.path, wanted)
    partitions = [name for name in lines.columns if name != "value"]
    schema = StructType([field for field in wanted if field.name not in partitions])
    lines = lines.withColumns({"value": _decoded(settings), FILE: F.col("_metadata.file_name")})
    parsed = F.from_json("value", "map<string,string>", {"mode": "PERMISSIVE", **settings.options})
    frame = lines.select(
        *_folders(partitions, wanted), FILE, F.col("value").alias(TEXT), parsed.alias("_sie_record")
    )
    value, record, carried = F.col(TEXT), F.col("_sie_record"), [*partitions, FILE, TEXT]
    names = [f"`{name}`" for name in schema.names]
    frame = frame.select(*carried, record, *[record[name].alias(name) for name in schema.names])
    bits = {name: (f"_sie_held_{at // MASK_BITS}", at % MASK_BITS) for at, name in enumerate(schema.names)}
    masks = _masks(bits, record)
    frame = frame.select(*carried, record, *names, *[mask.alias(name) for name, mask in masks.items()])

    valid = F.is_valid_utf8(value)
    whole = (
        valid
        & F.ltrim(value).startswith("{")
        & F.rtrim(value).endswith("}")
        & record.isNotNull()
        & ~_glued(value)
    )
    kept_text = F.when(valid, value).otherwise(F.concat(F.lit("base64:"), F.base64(value.cast("binary"))))
    known = F.array(*[F.lit(name) for name in (*schema.names, *partitions)])
    # more fields than declared columns have: some are not declared, or come twice
    more = whole & (F.size(record) > reduce(add, [F.bit_count(mask) for mask in masks]))
    new = F.array_except(F.map_keys(record), known)
    has_new = more & (F.size(new) > 0)  # a field named like a folder's column is not new
    drift = no_reasons()
    if settings.on_new_column in ("refuse", "quarantine"):
        drift = F.when(has_new, prefixed(NEW_COLUMN, new)).otherwise(drift)
    if settings.on_missing_column == "quarantine":
        absent = F.array_except(F.array(*[F.lit(name) for name in schema.names]), F.map_keys(record))
        absent_too = F.concat(drift, prefixed(MISSING_COLUMN, absent))
        drift = F.when(whole & (F.size(absent) > 0), absent_too).otherwise(drift)
    told = None if settings.on_new_column in KEEP else known  # what is kept of a record
    twice = F.concat(
        F.when(more, _repeated(record, told)).otherwise(no_reasons()),
        *[_repeated_within(field.name) for field in schema if isinstance(field.dataType, NESTED)],
    )
    drift = both(
        drift, F.when(F.size(twice) > 0, F.concat(F.array(F.lit(REPEATED)), twice)).otherwise(no_reasons())
    )
    extra = F.map_filter(record, lambda key, _: ~F.array_contains(known, key))
    frame = frame.select(
        *names,
        *carried,
        F.when(~F.coalesce(whole, F.lit(False)), kept_text).alias(UNPARSED),
        drift.alias(DRIFT),
        (F.when(has_new, extra) if settings.on_new_column in KEEP else no_extra()).alias(EXTRA),
        *masks,
    )
    raw = typed_from_text(frame, schema, partitions, tuple(masks))
    return replace(raw, bits=bits if settings.columns else {}, reasons=(REPEATED,))


def _repeated(record: Column, told: Column | None) -> Column:
    """Reasons of a record that says a key of ``told`` (None: any) twice, with two values: it has but the first."""
    fields, mark = (
        F.array_distinct(F.map_entries(record)),
        "\u0001",
    )  # the same value twice is no contradiction
    # no lambda, so that the whole projection is compiled: in order, a key that comes twice is followed by itself
    again = f"(?:^|{mark})([^{mark}]*)(?={mark}\\1(?:{mark}|$))"
    found = F.regexp_extract_all(F.array_join(F.sort_array(fields["key"]), mark), F.lit(again), F.lit(1))
    names = F.array_distinct(found) if told is None else F.array_intersect(found, told)
    twice = F.size(F.array_distinct(F.map_keys(record))) < F.size(record)
    named = F.when(F.size(names) > 0, prefixed(f"{REPEATED}:", names)).otherwise(no_reasons())
    return F.when(twice, named).otherwise(no_reasons())


def _repeated_within(name: str) -> Column:
    """The reason of a record in whose nested column an object says a key twice: from_json takes the last one."""
    text = F.col(f"`{name}`")
    valid = F.json_object_keys(text).isNotNull() | F.json_array_length(text).isNotNull()
    twice = text.isNotNull() & F.try_parse_json(text).isNull() & valid  # which refuses a key that comes twice
    return F.when(twice, F.array(F.lit(f"{REPEATED}:{name}"))).otherwise(no_reasons())


def _decoded(settings: Source) -> Column:
    """A line of JSON as text: Spark's text source takes every file for UTF-8."""
    named = {name.lower(): value for name, value in settings.options.items()}
    encoding = named.get("encoding", named.get("charset", "UTF-8")).upper()
    if encoding in ("UTF-8", "UTF8", "US-ASCII"):
        return F.col("value")
    if encoding not in ("ISO-8859-1", "LATIN1", "LATIN-1"):
        raise SourceError(
            f"{settings.path}: source.options.encoding '{encoding}' is not read from JSON lines",
            remedy="UTF-8 and ISO-8859-1 are; convert the files with iconv",
        )
    return F.decode(F.col("value").cast("binary"), "ISO-8859-1")


def _masks(bits: dict[str, tuple[str, int]], record: Column) -> dict[str, Column]:
    """The masks (bigint): which of the columns a record has, if only as a null."""
    masks: dict[str, Column] = {}
    for name, (mask, bit) in bits.items():
        there = F.col(f"`{name}`").isNotNull() | F.coalesce(F.map_contains_key(record, name), F.lit(False))
        held = F.shiftleft(there.cast("bigint"), bit)
        masks[mask] = masks[mask].bitwiseOR(held) if mask in masks else held
    return masks


def _glued(value: Column) -> Column:
    """Two objects on one line: ``}`` and ``{`` meet outside of strings, where JSON wants a comma."""
    # the last may be cut; possessive, so that no stack grows with it
    string = r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?$)'
    bare = F.regexp_replace(F.substring(value, 1, 100_000), string, '""')
    second = F.ltrim(value, F.lit("{ \t\r")).contains("{")  # a flat record has one brace: no pattern is tried
    return F.when(second & value.rlike(r"\}\s*\{"), bare.rlike(r"\}\s*\{")).otherwise(F.lit(False))


def _infer_json(spark: SparkSession, settings: Source, files: Sequence[str]) -> StructType:
    every = max(1, len(files) // SAMPLED_FILES)
    sample = list(files[::every]) or [str(settings.path)]
    options = {"mode": "PERMISSIVE", "columnNameOfCorruptRecord": CORRUPT, **settings.options}
    if {name.lower() for name in options} & {"encoding", "charset"}:
        options.setdefault("lineSep", "\n")  # Spark asks for it then
    schema = spark.read.options(**options).json(sample).schema
    fields = [field for field in schema if field.name != CORRUPT]
    if not fields:
        raise SourceError(
            f"{settings.path}: no JSON object found",
            remedy="one JSON object a line is expected; check the file",
        )
    return StructType(fields)


def read_csv(
    spark: SparkSession,
    settings: Source,
    schema: StructType | None,
    *,
    files: Sequence[str],
    listing: dict[str, str],
    stream: bool,
) -> Raw:
    """CSV, its fields as text; files of another header are read by themselves."""
    assert settings.path is not None
    # a quote within quotes is doubled (RFC 4180); Spark's own default is a backslash
    options = {"mode": "PERMISSIVE", "columnNameOfCorruptRecord": CORRUPT, "escape": '"'}
    options |= {"maxColumns": MAX_COLUMNS, **settings.options, **listing}
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
        if len(groups) > 1 and (stream or len(files) > MANY_FILES):
            raise SourceError(
                f"{settings.path}: its CSV files have {len(groups)} different headers",
                remedy="read files of one layout at a time (a glob), in batches of at most "
                f"{MANY_FILES} files, and not incrementally",
            )
    if len(groups) > 1 and not is_glob(settings.path):
        options.setdefault("basePath", settings.path)  # folders named column=value stay columns
    parts = [
        _csv_part(
            spark,
            settings,
            options,
            names,
            paths if len(groups) > 1 else [settings.path],
            schema=schema,
            stream=stream,
            many=len(files) > MANY_FILES,
        )
        for names, paths in groups.items()
    ]
    whole = parts[0]
    for part in parts[1:]:
        whole = Raw(
            whole.frame.unionByName(part.frame, allowMissingColumns=True),
            sorted({*whole.columns, *part.columns}, key=[*whole.columns, *part.columns].index),
            {**whole.untyped, **part.untyped},
            folders=whole.folders,
        )
    fields = len(next(iter(groups))) if len(groups) == 1 else 0
    return replace(whole, doubts=((REPLACED, _replaced_letters(whole)),), fields=fields)


def _replaced_letters(raw: Raw) -> Column:
    """Whether a field holds U+FFFD: unlike JSON lines, a CSV's bytes are not seen."""
    fields: Any = raw.frame.schema[SOURCE].dataType
    texts = [field.name for field in fields if isinstance(field.dataType, StringType)]
    return reduce(or_, [F.col(SOURCE)[name].contains("\ufffd") for name in texts], F.lit(False))


def _headers(
    spark: SparkSession, options: dict[str, str], files: Sequence[str]
) -> dict[tuple[str, ...], list[str]]:
    groups: dict[tuple[str, ...], list[str]] = {}
    own = {name: value for name, value in options.items() if name not in ("basePath", "inferSchema")}
    for path in files[:MANY_FILES]:
        names = tuple(spark.read.options(**own).csv(path).columns)
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
    many: bool,
) -> Raw:
    text = StructType([StructField(name, StringType()) for name in (*names, CORRUPT)])
    reader = (spark.readStream if stream else spark.read).format("csv").options(**options)
    if options.get("header", "false").lower() == "true" and many:
        reader = reader.option("enforceSchema", "false")  # Spark compares the headers nobody looked at
    lines = _with_folders(reader, text, paths[0] if len(paths) == 1 else list(paths), schema)
    partitions = [name for name in lines.columns if name not in text.names]
    fields = [field for field in (schema or StructType()) if field.name in names]
    new = [name for name in names if schema is not None and name not in schema.names]
    missing = [field.name for field in (schema or StructType()) if field.name not in (*names, *partitions)]
    drift = drift_reasons(settings, new, missing)
    kept = [StructField(name, StringType()) for name in names if name not in new and schema is None]
    frame = lines.select(
        *[F.col(f"`{name}`") for name in names if name not in new],
        *_folders(partitions, schema),
        F.col("_metadata.file_name").alias(FILE),
        F.col(CORRUPT).alias(UNPARSED),
        drift.alias(DRIFT),
        extra_columns(settings, new).alias(EXTRA),
        whole_text([*names, *partitions], new).alias(TEXT),
    )
    frame = add_nulls(frame, schema, missing)
    raw = typed_from_text(frame, StructType(fields or kept), partitions)
    return replace(raw, columns=[*raw.columns, *missing])


def _with_folders(
    reader: Any, held: StructType, paths: str | list[str], schema: StructType | None
) -> DataFrame:
    """Files with the columns ``held``, and those their folders are named after; declared ones as they are written.

    Spark makes numbers of what looks like one: of ``store=007`` it reads 7.
    """
    frame: DataFrame = reader.schema(held).load(paths)
    written = [
        StructField(field.name, StringType())
        for field in schema or ()
        if field.name in frame.columns and field.name not in held.names
    ]
    return reader.schema(StructType([*held, *written])).load(paths) if written else frame


def _folders(partitions: Sequence[str], schema: StructType | None) -> list[Column]:
    """Columns that folders are named after, of the declared types where they are declared."""
    types = {field.name: field.dataType for field in schema or ()}
    columns = {name: F.col(f"`{name}`") for name in partitions}
    return [
        (column.cast(types[name]) if name in types else column).alias(name)
        for name, column in columns.items()
    ]
