"""Quality rules as pure ``Column`` expressions: each says when a row breaks it, and under which name."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import TYPE_CHECKING

import pyarrow
from pyarrow.fs import FileType
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from sie_spark.platform.config import Rule
from sie_spark.platform.config.load import digest
from sie_spark.platform.errors import ConfigError
from sie_spark.platform.failures import nearest, readable, reason
from sie_spark.platform.root import locate

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

TIMES = ("timestamp", "timestamp_ntz", "date")
FRACTIONS = ("decimal", "double", "float")
NEEDS = {
    "type": ("type",),
    "set": ("values",),
    "regex": ("pattern",),
    "reference": ("table", "key"),
    "expression": ("expression",),
}


def rule_name(rule: Rule) -> str:
    """The reason that a rejected row carries."""
    return rule.name or f"{rule.column}:{rule.check}"


def check_rules(rules: Sequence[Rule], columns: Sequence[str], spark: SparkSession) -> None:
    """Raise :class:`ConfigError` for a rule on an unknown column, or one whose check cannot be made."""
    for rule in rules:
        if rule.column not in columns:
            raise ConfigError(
                f"rule '{rule_name(rule)}': no canonical column '{rule.column}'",
                remedy=nearest(rule.column, list(columns)),
            )
        for need in NEEDS.get(rule.check, ()):
            if getattr(rule, need) is None:
                raise ConfigError(
                    f"rule '{rule_name(rule)}': check '{rule.check}' needs '{need}'",
                    remedy=f"add '{need}' to the rule",
                )
        if rule.check == "range" and rule.min is None and rule.max is None:
            raise ConfigError(
                f"rule '{rule_name(rule)}': check 'range' needs 'min' or 'max'", remedy="add one of them"
            )
        if rule.check == "regex":
            _try(rule, "pattern", spark, partial(F.lit("").rlike, str(rule.pattern)))
        if rule.check == "type":
            _try(rule, "type", spark, partial(F.lit("").try_cast, str(rule.type)))


def _try(rule: Rule, setting: str, spark: SparkSession, use: Callable[[], Column]) -> None:
    """Evaluate a setting once, on nothing, so that what is wrong with it is said before work starts."""
    from pyspark.errors import PySparkException

    try:
        spark.range(1).select(use()).collect()  # one row
    except PySparkException as error:
        raise ConfigError(
            f"rule '{rule_name(rule)}': {setting} '{getattr(rule, setting)}' is not valid: {reason(error)}",
            remedy=f"correct '{setting}'",
        ) from None


def violation(rule: Rule, columns: Mapping[str, Column], types: Mapping[str, str]) -> Column:  # noqa: PLR0911
    """True where a row breaks the rule; a null breaks only ``required`` and ``expression``.

    ``columns`` are the canonical columns by name, ``types`` their Spark types in words. ``reference`` rules
    are answered by :func:`with_references` beforehand, in a column of their own.
    """
    column = columns[rule.column]
    kind = types.get(rule.column, "string")
    if rule.check in ("range", "not_future") and not _ordered(kind):
        raise ConfigError(
            f"rule '{rule_name(rule)}': check '{rule.check}' cannot judge a column of type {kind[:60]}",
            remedy=f"map '{rule.column}' to a number, text or time, or use check 'expression'",
        )
    there = column.isNotNull()
    if rule.check == "required":
        return column.isNull() | _blank(column, kind)
    if rule.check == "type":
        return there & column.cast("string").try_cast(str(rule.type)).isNull()
    if rule.check == "range":
        moment = kind in TIMES  # in seconds since 1970
        number = column.cast("timestamp").cast("double") if moment else column.try_cast("double")
        outside = number.isNull() | F.isnan(number)
        if rule.min is not None:
            outside = outside | (number < rule.min)
        if rule.max is not None:
            outside = outside | (number > rule.max)
        return there & outside
    if rule.check == "set":
        judged = column if kind.startswith(FRACTIONS) else column.cast("string")
        return there & ~F.coalesce(judged.isin(_members(rule.values or [], kind)), F.lit(False))
    if rule.check == "regex":
        return there & ~column.cast("string").rlike(rule.pattern or "")
    if rule.check == "not_future":
        latest = F.current_timestamp() + F.make_dt_interval(secs=F.lit(rule.tolerance_hours * 3600))
        return there & (column.try_cast("timestamp") > latest)
    if rule.check == "reference":
        return there & F.col(_flag(rule)).isNull()
    return F.lit(True)  # 'expression' is evaluated where its SQL has names: see canonical


def with_references(frame: DataFrame, rules: Sequence[Rule], spark: SparkSession) -> DataFrame:
    """Join a flag for each ``reference`` rule: not null where the value is in the table it names."""
    for rule in rules:
        if rule.check != "reference":
            continue
        assert rule.table is not None and rule.key is not None
        with readable(rule.table):
            found = _table(spark, rule.table)
            if rule.key not in found.columns:
                raise ConfigError(
                    f"rule '{rule_name(rule)}': '{rule.table}' has no column '{rule.key}'",
                    remedy=nearest(rule.key, found.columns),
                )
        key = f"{_flag(rule)}_key"
        valid = found.select(F.col(f"`{rule.key}`").cast("string").alias(key)).where(F.col(key).isNotNull())
        valid = valid.distinct().withColumn(_flag(rule), F.lit(True))
        frame = frame.join(valid, frame[rule.column].cast("string") == valid[key], "left").drop(key)
    return frame


def _members(values: Sequence[str], kind: str) -> list[Column]:
    """The values of a set in the type they are compared in: fractions by value (1.5 is 1.50), others by text.

    A decimal is never compared as a double, which would take two of 20 digits for each other. What no value of
    the column's type equals (1.55 of one decimal, a word) is left out and matches nothing: files of other types
    may hold it under the same YAML.
    """
    if not kind.startswith("decimal"):
        type_ = kind if kind.startswith(FRACTIONS) else "string"
        return [F.lit(value).try_cast(type_) for value in values]
    precision, scale = map(int, re.findall(r"\d+", kind))
    exact = pyarrow.decimal128(precision, scale)
    members = []
    for value in values:
        try:
            member = pyarrow.scalar(Decimal(value), exact).as_py()
        except (InvalidOperation, pyarrow.ArrowInvalid):  # no number; no value of this type
            continue
        members.append(F.lit(f"{member:f}").cast(kind))
    return members


def _ordered(kind: str) -> bool:
    """Whether values of a type can be read as numbers or times."""
    integers = ("tinyint", "smallint", "int", "bigint")
    return kind in (*TIMES, *integers, "string", "boolean", "void") or kind.startswith(FRACTIONS)


def _flag(rule: Rule) -> str:
    return f"_sie_ref_{rule.column}_{digest([rule.table, rule.key])}"


def _table(spark: SparkSession, path: str) -> DataFrame:
    """A Delta table where the folder has a log of one, else Parquet files."""
    filesystem, log = locate(f"{path.rstrip('/')}/_delta_log")
    is_delta = filesystem.get_file_info(log).type == FileType.Directory
    return spark.read.format("delta" if is_delta else "parquet").load(path)


def _blank(column: Column, kind: str) -> Column:
    if kind == "string":
        return F.trim(column) == ""
    if kind in ("double", "float"):
        return F.isnan(column)
    if kind.startswith("array"):
        return F.size(column) == 0
    return F.lit(False)
