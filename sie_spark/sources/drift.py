"""When a source is not what was declared: new, missing and retyped columns, and text that is no number.

The settings say what happens: refuse the source, keep the column aside, or reject the rows with a reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from typing import cast

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, DataType, MapType, StringType, StructType

from sie_spark.platform.config import Source
from sie_spark.platform.errors import SourceError

UNPARSED, FILE, DRIFT, EXTRA, TEXT = "_sie_unparsed", "_sie_file", "_sie_drift", "_sie_extra", "_sie_text"
SOURCE = "_sie_source"  # the record as it came, a struct: what a rejected row keeps
CORRUPT = "_sie_corrupt"
REPLACED = "text: U+FFFD"  # the letter that a reader puts where bytes are not of the file's encoding
NEW_COLUMN, MISSING_COLUMN = "new_column:", "missing_column:"
REPEATED = "repeated_key"  # a key of one JSON object that comes twice, with two values
MASK_BITS = 62
# a record is known by its text: times to the microsecond, where to_json by itself writes milliseconds
AS_JSON = {
    "timestampFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSSXXX",
    "timestampNTZFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSS",
}
HELPERS = (UNPARSED, FILE, DRIFT, EXTRA, TEXT, SOURCE)


@dataclass(frozen=True)
class Raw:
    """Records of a source: ``frame`` has ``columns`` (typed) and the helper columns ``HELPERS``.

    ``untyped``: columns that were text in the source, and the type they were cast to. ``bits``: for each
    declared column of a JSON source the helper column and the bit that say whether a record has it. ``others``:
    the files of other layouts, whose columns may have other types. ``folders``: columns that are not in the
    record's text but in the names of its folders. ``doubts``: names of what looks wrong in a record that is kept,
    and a test over ``frame``. ``fields``: of a line of CSV, where all files have the same; else 0. ``reasons``: those of
    DRIFT that are counted.
    """

    frame: DataFrame
    columns: list[str]
    untyped: dict[str, str]
    bits: dict[str, tuple[str, int]] = field(default_factory=dict)
    others: tuple[Raw, ...] = ()
    folders: tuple[str, ...] = ()
    doubts: tuple[tuple[str, Column], ...] = ()
    fields: int = 0
    reasons: tuple[str, ...] = ()

    @property
    def masks(self) -> list[str]:
        """The helper columns that :attr:`bits` names."""
        return sorted({mask for mask, _ in self.bits.values()})


def drift_reasons(settings: Source, new: Sequence[str], missing: Sequence[str]) -> Column:
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
    reasons = [f"{NEW_COLUMN}{name}" for name in new if settings.on_new_column == "quarantine"]
    reasons += [f"{MISSING_COLUMN}{name}" for name in missing if settings.on_missing_column == "quarantine"]
    return F.array(*[F.lit(reason) for reason in reasons]).cast("array<string>") if reasons else no_reasons()


def retyped_reason(
    settings: Source, column: Column, name: str, *, actual: DataType, wanted: DataType
) -> Column:
    """The reason of rows whose column has another type than declared; refuses where the settings say so."""
    if settings.on_type_change == "refuse":
        raise SourceError(
            f"{settings.path}: column '{name}' is {actual.simpleString()}, declared {wanted.simpleString()}",
            remedy="change dataset.source.columns, or set source.on_type_change to cast or quarantine",
        )
    if settings.on_type_change == "quarantine":
        return F.lit(f"type_change:{name}")
    failed = column.isNotNull() & cast_text(column.cast("string"), wanted).isNull()
    return F.when(failed, F.lit(f"type:{name}"))


def extra_columns(settings: Source, new: Sequence[str]) -> Column:
    """Undeclared columns as a map of texts, where they are to be kept."""
    if settings.on_new_column not in ("add", "quarantine") or not new:
        return no_extra()
    pairs = [part for name in new for part in (F.lit(name), F.col(f"`{name}`").cast("string"))]
    return F.map_filter(F.create_map(*pairs), lambda _, value: value.isNotNull())


def whole_text(names: Sequence[str], new: Sequence[str]) -> Column:
    """The whole record where some of its columns are not declared: it is told apart by them too."""
    if not new:
        return F.lit(None).cast("string")
    return F.to_json(F.struct(*[F.col(f"`{name}`") for name in names]), AS_JSON)


def add_nulls(frame: DataFrame, schema: StructType | None, missing: Sequence[str]) -> DataFrame:
    """Declared columns that the source lacks, as nulls."""
    for name in missing:
        assert schema is not None
        frame = frame.withColumn(name, F.lit(None).cast(schema[name].dataType))
    return frame


def typed_from_text(
    frame: DataFrame, schema: StructType, partitions: Sequence[str], masks: Sequence[str] = ()
) -> Raw:
    """Cast text to the declared types; a text that does not fit becomes null and a reason in DRIFT."""
    columns: list[Column] = []
    reasons: list[tuple[str, Column]] = []
    untyped: dict[str, str] = {}
    parsed = F.col(UNPARSED).isNull()
    for one in schema:
        text = F.col(f"`{one.name}`")
        if isinstance(one.dataType, StringType):
            columns.append(text)
            continue
        typed = cast_text(text, one.dataType)
        columns.append(typed.alias(one.name))
        failed = parsed & text.isNotNull() & (F.trim(text) != "") & typed.isNull()
        reasons.append((f"type:{one.name}", failed))
        untyped[one.name] = one.dataType.simpleString()
    others = [F.col(f"`{n}`") for n in frame.columns if n not in (*schema.names, *HELPERS, *masks)]
    drift = both(F.col(DRIFT), names_of(reasons))
    source = F.struct(*[F.col(f"`{name}`") for name in (*schema.names, *partitions)])
    typed_frame = frame.select(
        *columns, *others, FILE, UNPARSED, drift.alias(DRIFT), EXTRA, TEXT, source.alias(SOURCE), *masks
    )
    return Raw(typed_frame, [*schema.names, *partitions], untyped, folders=tuple(partitions))


def cast_text(text: Column, wanted: DataType) -> Column:
    """Text as another type; null where it is none. Nested types are read as JSON."""
    if isinstance(wanted, (ArrayType, MapType, StructType)):
        return F.from_json(text, cast(StructType, wanted), {"mode": "PERMISSIVE"})
    return F.trim(text).try_cast(wanted)


def widens(actual: DataType, wanted: DataType) -> bool:
    """Whether every value of one type has the same value in the other."""
    if actual == wanted or actual.simpleString() == wanted.simpleString():
        return True
    order = ["tinyint", "smallint", "int", "bigint"]
    a, w = actual.simpleString(), wanted.simpleString()
    if a in order and w in order:
        return order.index(a) <= order.index(w)
    return (a, w) in {("float", "double"), ("int", "double"), ("smallint", "double"), ("date", "timestamp")}


def names_of(tests: Sequence[tuple[str, Column]]) -> Column:
    """The names of the tests that hold, array<string>; the list is built only where one does."""
    if not tests:
        return no_reasons()
    # no lambda, so that the whole projection is compiled
    found = F.array_remove(F.array(*[F.when(test, F.lit(name)).otherwise("") for name, test in tests]), "")
    return F.when(reduce(or_, [test for _, test in tests]), found).otherwise(no_reasons())


def both(first: Column, second: Column) -> Column:
    """Two lists of reasons as one without repetition; ``first`` is mostly empty, and then nothing is built."""
    return F.when(F.size(first) == 0, second).otherwise(F.array_distinct(F.concat(first, second)))


def prefixed(prefix: str, names: Column) -> Column:
    """Each name of a non-empty list with a prefix, array<string> (no lambda: see :func:`names_of`)."""
    mark = "\u0001"
    return F.split(F.concat(F.lit(prefix), F.array_join(names, mark + prefix)), mark)


def no_reasons() -> Column:
    """An empty list of reasons."""
    return F.array().cast("array<string>")


def no_extra() -> Column:
    """No undeclared columns."""
    return F.lit(None).cast("map<string,string>")
