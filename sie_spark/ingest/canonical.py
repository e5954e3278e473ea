"""Source columns become canonical columns: times, types, rules, pseudonyms and the id of each record.

Everything is one projection; a row that breaks a rule keeps its record and every reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from sie_spark.ingest.outcomes import OUTCOMES, outcome, reason_of
from sie_spark.ingest.pseudonyms import INNER, OUTER, pseudonym, with_key
from sie_spark.ingest.records import record_of
from sie_spark.ingest.rules import check_rules, rule_name, violation, with_references
from sie_spark.ingest.times import UNKNOWN_DATE, check_format, parse_time, sensible
from sie_spark.platform.config import Dataset, Rule
from sie_spark.platform.errors import ConfigError, SourceError
from sie_spark.platform.failures import header_hint, nearest, reason, unresolved_column
from sie_spark.sources.drift import (
    DRIFT,
    EXTRA,
    FILE,
    HELPERS,
    SOURCE,
    TEXT,
    UNPARSED,
    Raw,
    both,
    names_of,
)

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

IDENTITY = ("event_ts", "seq", "event_type", "user_id", "session_id", "item_id")
KEYS = {
    "seq": "bigint",
    "event_type": "string",
    "user_id": "string",
    "session_id": "string",
    "item_id": "string",
}
ID_LENGTH = 32
UNPARSABLE = "unparsable"
# reasons that no record escapes, whatever the rules say; those of outcomes and of KEYS aside
ALWAYS = ("event_ts:required", "event_ts:absurd", "event_type:required", "sampling_rate:not in (0, 1]")


@dataclass(frozen=True)
class Canonical:
    """``frame``: the tables' columns plus reasons, record, unparsed, source_file and a flag a warning."""

    frame: DataFrame
    columns: list[str]  # of events, in order
    reasons: list[str]  # every reason a row can carry that is known beforehand
    warnings: dict[str, str]  # flag column: rule name
    masks: tuple[str, ...] = ()  # columns whose bits say what a record held, for a look at the whole source
    fields: int = 0  # columns of a line, where all files have the same; else 0


def canonicalise(
    raw: Raw,
    dataset: Dataset,
    key: bytes,
    spark: SparkSession,
    *,
    existing: Mapping[str, str],
    remake: Callable[[], str],
) -> Canonical:
    """Apply a data set's mapping to the raw records.

    Parameters
    ----------
    existing:
        column types of the events table as it stands, empty before the first run.
    remake:
        what a user can do to have a column of another type there.

    Raises
    ------
    ConfigError, SourceError
        naming the canonical column and the source column when an expression does not fit the source.
    """
    names = _check(dataset, spark)
    layouts = (raw, *raw.others)
    first, *others = [
        _canonical(layout, dataset, names, key=key, spark=spark, existing=existing, remake=remake)
        for layout in layouts
    ]
    for other in others:
        frame = first.frame.unionByName(other.frame)
        reasons = list(dict.fromkeys([*first.reasons, *other.reasons]))
        first = replace(first, frame=frame, reasons=reasons)
    return replace(first, fields=raw.fields)


def _canonical(
    raw: Raw,
    dataset: Dataset,
    names: list[str],
    *,
    key: bytes,
    spark: SparkSession,
    existing: Mapping[str, str],
    remake: Callable[[], str],
) -> Canonical:
    frame, missing = _mapped(raw, dataset)
    if "event_ts" in names:  # a column of its own: parsed once, and what the rules see is a time
        kind = frame.schema["event_ts"].dataType.simpleString()
        frame = frame.withColumn("event_ts", parse_time(F.col("event_ts"), kind, dataset))
    types = {field.name: field.dataType.simpleString() for field in frame.schema}
    frame = with_references(frame, dataset.rules, spark)
    frame = with_key(frame, key, spark)

    columns = {name: F.col(name) for name in names}
    rate = F.col("sampling_rate").cast("string").try_cast("double") if dataset.sampling_rate else F.lit(1.0)
    reasons = _always(columns, rate, dataset)
    for name, wanted in KEYS.items():
        if name in columns and types[name] != wanted:
            cast = columns[name].cast("string").try_cast(wanted)
            reasons.append((f"{name}:type", columns[name].isNotNull() & cast.isNull()))
            columns[name], types[name] = cast, wanted
    for name in names:
        if name in existing and types[name] != existing[name] and name not in ("event_id", "event_ts"):
            change = (name, types[name], existing[name])
            columns[name], reason = _as_before(columns[name], change, dataset, remake)
            types[name] = existing[name]
            reasons.extend(reason)
    broken, warned = _judged(frame, dataset, columns, types)
    warned |= {f"_doubt_{at}": doubt for at, doubt in enumerate(raw.doubts)}
    reasons.extend(broken)
    reasons.extend((f"missing_column:{name}", F.lit(True)) for name in missing if _rejects(dataset))

    parsed = F.col(UNPARSED).isNull()
    every = F.when(parsed, both(F.col(DRIFT), names_of(reasons))).otherwise(F.array(F.lit(UNPARSABLE)))
    identifiers = [name for name in dataset.identifiers if name in columns]
    out = frame.select(
        *[(pseudonym(columns[name]) if name in identifiers else columns[name]).alias(name) for name in names],
        rate.alias("sampling_rate"),
        every.alias("reasons"),
        *[test.alias(flag) for flag, (_, test) in warned.items()],
        *[F.col(name) for name in (UNPARSED, FILE, EXTRA, TEXT, SOURCE, INNER, OUTER, *raw.masks)],
    )
    # written as JSON only where it is kept, or is all there is to tell records apart
    needed = (F.size("reasons") > 0) | F.col(TEXT).isNull()
    if dataset.event_key:
        keyless = reduce(or_, [F.col(name).isNull() for name in dataset.event_key])
        needed = (F.size("reasons") > 0) | (F.col(TEXT).isNull() & keyless)
    record = record_of(raw, dataset, identifiers, kept=False)  # only for ids, which stay what they were
    if any(isinstance(one.dataType, StructType) for one in raw.frame.schema):
        kept = record_of(raw, dataset, identifiers, kept=True)
        record = F.when(F.size("reasons") > 0, kept).otherwise(record)
    out = out.withColumn("_record", F.when(needed, record))
    named = {flag: name for flag, (name, _) in warned.items()}
    return _finished(
        out,
        dataset,
        names,
        reasons=[*raw.reasons, *[f"type:{name}" for name in raw.untyped], *[name for name, _ in reasons]],
        warnings=named,
        masks=tuple(raw.masks),
        folders=raw.folders,
    )


def _check(dataset: Dataset, spark: SparkSession) -> list[str]:
    names = list(dataset.columns)
    if dataset.event_time is not None and "event_ts" not in names:
        names = ["event_ts", *names]
    needed = ["event_ts", "event_type"] if dataset.kind == "events" else ["label"]
    for name in needed:
        if name not in names:
            raise ConfigError(
                f"dataset.columns: a data set of kind '{dataset.kind}' needs '{name}'",
                remedy=f"add '{name}': SQL over the source columns",
            )
    check_format(dataset, spark)
    check_rules(dataset.rules, names, spark)
    usual = Dataset.model_fields["identifiers"].get_default(call_default_factory=True)
    meant = {
        "event_key": dataset.event_key,
        "identifiers": [n for n in dataset.identifiers if n not in usual],
    }
    for setting, chosen in meant.items():
        for name in chosen:
            if name not in names:
                raise ConfigError(
                    f"dataset.{setting}: no canonical column '{name}'", remedy=nearest(name, names)
                )
    return names


def _mapped(raw: Raw, dataset: Dataset) -> tuple[DataFrame, list[str]]:
    """The canonical columns by name; source columns that are missing are null where allowed."""
    from pyspark.errors import PySparkException

    wanted = dict(dataset.columns)
    if dataset.event_time is not None:
        wanted["event_ts"] = dataset.event_time.expression
    if dataset.sampling_rate:
        wanted["sampling_rate"] = dataset.sampling_rate
    frame, missing = raw.frame, []
    for name, sql in wanted.items():
        while True:
            try:
                _one_value_a_row(frame, F.expr(sql))
                break
            except PySparkException as error:
                column, setting = unresolved_column(error), _setting(name, dataset)
                if column is None:
                    unfolds = (error.getCondition() or "").startswith("UNSUPPORTED_GENERATOR")
                    raise ConfigError(
                        f"{setting}: '{sql}' is not valid: {reason(error)}",
                        remedy="a record is one row: map the array itself, and name it in impressions.items"
                        if unfolds
                        else "correct the SQL; it may use the source's columns only, and gives one value a record",
                    ) from None
                if dataset.source.on_missing_column == "refuse" or column in missing or "." in column:
                    raise SourceError(
                        f"{dataset.source.path}: no column '{column}', which {setting} needs",
                        remedy=header_hint(column, raw.columns) or nearest(column, raw.columns),
                    ) from None
                missing.append(column)
                frame = frame.withColumn(column, F.lit(None).cast("string"))
    helpers = [F.col(name) for name in (*HELPERS, *raw.masks)]
    return frame.select(*[F.expr(sql).alias(name) for name, sql in wanted.items()], *helpers), missing


def _setting(name: str, dataset: Dataset) -> str:
    """The setting that a canonical column's SQL stands in."""
    if name == "event_ts" and dataset.event_time is not None:
        return "dataset.event_time.expression"
    return "dataset.sampling_rate" if name == "sampling_rate" else f"dataset.columns.{name}"


def _one_value_a_row(frame: DataFrame, expression: Column) -> None:
    """Let Spark analyse (Connect does when asked): inside a struct and beside a column it refuses ``explode``
    and aggregates, which by themselves would make other rows of the records."""
    frame.select(UNPARSED, F.struct(expression)).schema  # noqa: B018


def _always(columns: Mapping[str, Column], rate: Column, dataset: Dataset) -> list[tuple[str, Column]]:
    """What no record may lack, whatever the rules say: (reason, test)."""
    reasons: list[tuple[str, Column]] = []
    if "event_ts" in columns:
        outside = columns["event_ts"].isNotNull() & ~sensible(columns["event_ts"])
        reasons.append((ALWAYS[0], columns["event_ts"].isNull()))
        reasons.append((ALWAYS[1], outside))
    if "event_type" in columns:
        reasons.append((ALWAYS[2], columns["event_type"].isNull()))
    for name in outcome_columns(dataset):
        wrong = outcome(columns[name]).isNull()
        if dataset.kind == "events":  # which of them show an item, and must have one, stage impressions knows
            wrong = wrong & columns[name].isNotNull()
        reasons.append((reason_of(name), wrong))
    if dataset.sampling_rate:
        reasons.append((ALWAYS[3], ~F.coalesce((rate > 0) & (rate <= 1), F.lit(False))))
    return reasons


def every_row_counts(dataset: Dataset) -> bool:
    """Whether equal rows are different ones: those of a table without a key, where each may be somebody else's."""
    return dataset.kind == "tabular" and not dataset.event_key


def judged_by(dataset: Dataset) -> tuple[list[str], list[str]]:
    """The reasons that the user's own rules give, and those that outcomes give."""
    outcomes = [reason_of(name) for name in outcome_columns(dataset)]
    always = {*ALWAYS, *outcomes, *(f"{name}:type" for name in KEYS)}
    named = [rule_name(rule) for rule in dataset.rules if rule.severity == "error"]
    return [name for name in dict.fromkeys(named) if name not in always], outcomes


def outcome_columns(dataset: Dataset) -> list[str]:
    """The canonical columns that are outcomes: of events a click or a conversion, of labelled rows the label too."""
    names = OUTCOMES if dataset.kind != "events" else [name for name in OUTCOMES if name != "label"]
    return [name for name in names if name in dataset.columns]


def _rejects(dataset: Dataset) -> bool:
    return dataset.source.on_missing_column == "quarantine"


def _as_before(
    column: Column, change: tuple[str, str, str], dataset: Dataset, remake: Callable[[], str]
) -> tuple[Column, list[tuple[str, Column]]]:
    """A canonical column whose type differs from the events table's; ``change`` is its name and both types."""
    name, actual, wanted = change
    policy = dataset.source.on_type_change
    if actual == "void":
        return column.cast(wanted), []
    nested = wanted.startswith(("array", "map", "struct"))  # which no text is cast to
    if nested and policy == "quarantine":
        return F.lit(None).cast(wanted), [(f"type_change:{name}", F.lit(True))]
    wider = {("int", "bigint"), ("int", "double"), ("float", "double")}
    if nested or (policy == "refuse" and (actual, wanted) not in wider):
        others = "quarantine" if nested else "cast or quarantine"
        raise SourceError(
            f"{dataset.source.path}: column '{name}' is {actual} now and {wanted} in table events",
            remedy=f"for {actual}: {remake()}; for {wanted}: set dataset.columns.{name}:"
            f" cast({dataset.columns[name]} AS {wanted}), or source.on_type_change to {others}",
        )
    cast = column.cast("string").try_cast(wanted)
    failed = F.lit(True) if policy == "quarantine" else column.isNotNull() & cast.isNull()
    return cast, [(f"type_change:{name}", failed)]


def _judged(
    frame: DataFrame, dataset: Dataset, columns: Mapping[str, Column], types: Mapping[str, str]
) -> tuple[list[tuple[str, Column]], dict[str, tuple[str, Column]]]:
    """The rules' tests: (reason, test) of severity error, and flag column: (name, test) of severity warn."""
    broken, warned = [], {}
    for index, rule in enumerate(dataset.rules):
        test = violation(rule, columns, types)
        if rule.check == "expression":
            holds = _expression(frame, rule, list(columns))
            test = ~F.coalesce(holds, F.lit(False))
        test = F.coalesce(test, F.lit(False))
        if rule.severity == "error":
            broken.append((rule_name(rule), test))
        else:
            warned[f"_warn_{index}"] = (rule_name(rule), F.col(UNPARSED).isNull() & test)
    return broken, warned


def _expression(frame: DataFrame, rule: Rule, names: list[str]) -> Column:
    from pyspark.errors import PySparkException

    try:
        holds = F.expr(str(rule.expression)).cast("boolean")
        _one_value_a_row(frame, holds)
    except PySparkException as error:
        raise ConfigError(
            f"rule '{rule_name(rule)}': '{rule.expression}' is not valid: {reason(error)}",
            remedy=f"correct the SQL; it may use {', '.join(names)}",
        ) from None
    return holds


def _finished(
    frame: DataFrame,
    dataset: Dataset,
    names: list[str],
    *,
    reasons: list[str],
    warnings: dict[str, str],
    masks: tuple[str, ...],
    folders: tuple[str, ...],
) -> Canonical:
    def placed(text: Column) -> Column:  # equal lines below different folders are different records
        if not folders:
            return text
        values = [F.coalesce(F.col(SOURCE)[name].cast("string"), F.lit("")) for name in folders]
        return F.when(text.isNotNull(), F.concat_ws("\u0001", text, *values))

    rejected = F.size("reasons") > 0
    event_type = {"events": None, "impressions": "impression", "tabular": "row"}[dataset.kind]
    columns: dict[str, Column] = {}
    for name in (*IDENTITY, *names):
        if name in ("event_id", *columns):
            continue
        if name in names:
            columns[name] = F.col(name)
        elif name == "event_ts":
            columns[name] = F.lit(None).cast("timestamp")
        else:
            fixed = event_type if name == "event_type" else None
            columns[name] = F.lit(fixed).cast(KEYS[name])
    good_time = sensible(columns["event_ts"])
    date = F.when(good_time, F.to_date(columns["event_ts"])).otherwise(F.lit(UNKNOWN_DATE).cast("date"))
    if dataset.event_key:
        # null where a part is: records without a key are told apart by all they hold
        parts = [F.col(name).cast("string") for name in dataset.event_key]
        separated = [
            part for at, key in enumerate(parts) for part in ([F.lit("\u0001")] if at else []) + [key]
        ]
        identity = F.coalesce(F.concat(*separated), pseudonym(placed(F.col(TEXT))), F.col("_record"))
    else:
        identity = F.coalesce(pseudonym(placed(F.col(TEXT))), F.col("_record"))
    rejected_identity = F.coalesce(placed(F.col(UNPARSED)), F.col("_record"))
    event_id = F.substring(F.sha2(F.when(rejected, rejected_identity).otherwise(identity), 256), 1, ID_LENGTH)
    extra = [F.col(EXTRA).alias("extra")] if dataset.source.on_new_column == "add" else []
    staged = frame.select(
        event_id.alias("event_id"),
        date.alias("event_date"),
        *[column.alias(name) for name, column in columns.items()],
        *[F.col("sampling_rate"), *extra, F.col("reasons")],
        F.when(rejected & F.col(UNPARSED).isNull(), F.col("_record")).alias("record"),
        F.col(UNPARSED).alias("unparsed"),
        F.col(FILE).alias("source_file"),
        *[F.col(flag) for flag in (*warnings, *masks)],
    )
    kept = ["event_id", "event_date", *columns, "sampling_rate", *(["extra"] if extra else [])]
    return Canonical(staged, kept, [UNPARSABLE, *reasons], warnings, masks)
