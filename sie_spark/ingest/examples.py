"""Examples of what is wrong with a staged batch: enough to find the cause, and nobody's name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from sie_spark.ingest.canonical import judged_by
from sie_spark.ingest.outcomes import Values
from sie_spark.ingest.staging import BAD, DAY, KEYS, repeated, staged, with_keys
from sie_spark.ingest.unparsed import ENCODED
from sie_spark.platform.config import Dataset

if TYPE_CHECKING:
    from sie_spark.platform.context import Context

EXAMPLES = 3
SAMPLE = 200  # rejected rows that examples are taken from
FREQUENT = 20  # values of an outcome that are looked at
LENGTH = 60  # characters of an example
WORDS = ("null", "none", "nan", "na", "true", "false", "inf", "infinity")


def masked(text: str) -> str:
    """The shape of a text: letters are x, digits 9, so that it names nobody; words for nothing stay.

    Example: ``{"user": "ann7", "price": null`` is ``{"xxxx": "xxx9", "xxxxx": null``.
    """
    if text.startswith(ENCODED):
        return "bytes that are not UTF-8"
    short = text[:LENGTH] + ("..." if len(text) > LENGTH else "")

    def shape(word: re.Match[str]) -> str:
        if word[0].lower() in WORDS:
            return word[0]
        return "".join("9" if letter.isdigit() else letter if letter == "_" else "x" for letter in word[0])

    return re.sub(r"\w+", shape, short)


def unparsed_lines(rows: DataFrame) -> list[str]:
    """Some lines of a staged batch that could not be parsed, as they are."""
    found = rows.where(F.col("unparsed").isNotNull()).select("unparsed").limit(SAMPLE)
    return [row[0] for row in found.collect()]


def rejected_examples(rows: DataFrame, reason: str, dataset: Dataset) -> list[str]:
    """Different records of a staged batch that are rejected for a reason: the shapes of the fields that it is about."""
    found = rows.where(F.array_contains("reasons", reason)).select("unparsed", "record", "source_file")
    shown: dict[str, str] = {}
    for line, record, file in found.limit(SAMPLE).collect():
        text = masked(line) if line is not None else _fields(json.loads(record), reason, dataset)
        shown.setdefault(text, f"{text} ({file})" if file else text)
    return list(shown.values())[:EXAMPLES]


def outcome_texts(rows: DataFrame, name: str, dataset: Dataset) -> Values:
    """The frequent values of an outcome column in a staged batch, of rows that are rejected for nothing else."""
    rows = _otherwise_good(rows, dataset)
    text = F.col(name).cast("string").alias("value")
    counted = rows.select(text).groupBy("value").count().orderBy(F.desc("count"), "value").limit(FREQUENT)
    return _of_nobody([(row[0], int(row[1])) for row in counted.collect()], name, rows, dataset)


def some_outcomes(rows: DataFrame, name: str, reason: str, dataset: Dataset) -> Values:
    """Values of an outcome column that rows are rejected for, beside the 0 and 1 of most; none is counted."""
    wrong = (
        _otherwise_good(rows, dataset)
        .where(F.array_contains("reasons", reason))
        .select(F.col(name).cast("string"))
        .limit(SAMPLE)
    )
    texts = dict.fromkeys([*(row[0] for row in wrong.collect()), "0", "1"])
    return _of_nobody([(text, 0) for text in texts], name, rows, dataset)


def duplicate_examples(ctx: Context, fingerprint: str) -> list[str]:
    """Events of a staged batch that are there several times: their key, or when and what they are."""
    dataset = ctx.config.dataset
    some = repeated(ctx, fingerprint).where(~F.col(BAD)).select(*KEYS, DAY).limit(EXAMPLES)
    rows = staged(ctx, fingerprint)
    names = [
        name
        for name in dataset.event_key or ("event_ts", "event_type", "user_id", "item_id", *dataset.columns)
        if name in rows.columns
    ][: max(4, len(dataset.event_key))]
    texts = F.struct(*[F.col(name).cast("string").alias(name) for name in names])
    same = with_keys(rows).join(F.broadcast(some), [*KEYS, DAY])
    found = same.groupBy(*KEYS, DAY).agg(F.first(texts).alias("row"), F.count("*").alias("n")).collect()
    return [f"{_key(row['row'].asDict(), dataset.identifiers)} ({row['n']:,} times)" for row in found]


def _key(values: dict[str, str | None], identifiers: Sequence[str]) -> str:
    words = {
        name: value if value is None else f"{value[:8]}..." if name in identifiers else value[:LENGTH]
        for name, value in values.items()
    }
    return ", ".join(f"{name}={value}" for name, value in words.items() if value is not None)


def _fields(record: dict[str, Any], reason: str, dataset: Dataset) -> str:
    """The shapes of the fields that a reason is about, or of the first ones."""
    names = _named_in(_sql_of(reason, dataset), record) or list(record)[:EXAMPLES]
    values = [(name, record.get(name)) for name in names]
    return ", ".join(f"{name}={'null' if value is None else masked(str(value))}" for name, value in values)


def _sql_of(reason: str, dataset: Dataset) -> str:
    """The SQL, or the name of a source column, that a reason judges."""
    if reason.startswith("type:"):
        return reason.removeprefix("type:")
    name = reason.partition(":")[0]
    if name == "event_ts" and dataset.event_time is not None:
        return dataset.event_time.expression
    return dataset.columns.get(name) or (dataset.sampling_rate or "" if name == "sampling_rate" else "")


def _named_in(sql: str, names: Iterable[str]) -> list[str]:
    """The source columns that stand in some SQL; one that is no word stands there as it is."""
    words = set(re.findall(r"\w+", sql.lower()))
    return [
        name
        for name in names
        if (name.lower() in words if name.isidentifier() else name.lower() in sql.lower())
    ]


def _otherwise_good(rows: DataFrame, dataset: Dataset) -> DataFrame:
    _, outcomes = judged_by(dataset)
    return rows.where(F.size(F.array_except("reasons", F.array(*map(F.lit, outcomes)))) == 0)


def _of_nobody(values: Values, name: str, rows: DataFrame, dataset: Dataset) -> Values:
    """No values where an outcome is made of what identifies somebody."""
    one = rows.where(F.col("record").isNotNull()).select("record").limit(1).collect()
    fields = _named_in(dataset.columns[name], json.loads(one[0][0])) if one else []
    people = " ".join(dataset.columns.get(column, "") for column in dataset.identifiers)
    if not _named_in(people, fields):
        return values
    return [(None if text is None else masked(text), count) for text, count in values]
