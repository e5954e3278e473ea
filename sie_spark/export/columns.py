"""Exported rows as column expressions: weights, Parquet columns, libsvm lines. Nothing is decoded in Python."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from sie_spark.export.arms import KeptArm
from sie_spark.export.layout import Layout, Place

if TYPE_CHECKING:
    from pyspark.sql import Column


def log_weight() -> Column:
    """1 / sampling_rate: the rows that one row of a down-sampled log stands for; 1 where none was left out."""
    return 1 / F.col("sampling_rate").cast("double")


def weight_of(arm: KeptArm) -> Column:
    """The weight of a kept row for a learner that takes weights alone.

    ``1 / (pi * sampling_rate)`` (Horvitz & Thompson 1952) is unbiased for every policy that keeps rows with
    probability pi, however its own fit corrects for that. Nothing is rescaled: the weights sum to about the rows of
    the log. The weight of a biased policy is its emphasis, and it stays that.
    """
    if not arm.biased:
        return log_weight() / F.col("pi")
    own = F.col("weight").cast("double")
    return own if arm.rate_in_weight else own * log_weight()


def row_columns(layout: Layout, weight: Column, *, kept: bool) -> list[Column]:
    """The columns in Parquet.

    Parameters
    ----------
    kept:
        whether the rows have the offset and weight of a policy; test rows have none.
    """
    offset = F.col("offset") if kept else F.lit(0.0)
    beside = F.col("weight") if kept else log_weight()
    return [
        *[F.col(name) for name in layout.carried],
        weight.cast("double").alias("weight"),
        offset.cast("double").alias("offset"),
        beside.cast("double").alias("offset_weight"),
        *[F.col(f"`{name}`").alias(column) for name, column in layout.keys.items()],
        *[_value(place).alias(place.column) for place in layout.places],
    ]


def libsvm_line(layout: Layout) -> Column:
    """Label and ``index:value`` pairs, indices from 1 and ascending.

    A category is one-hot, a bag or sequence counts its ids, numbers and vectors are written as they are, zeros too,
    for what is absent is zero to some learners and missing to others. What is no number is left out. Every line ends
    with the last index, for learners take the greatest one of a file for the number of features.
    """
    label = F.col("label")
    whole = F.when(label == F.floor(label), label.cast("bigint").cast("string")).otherwise(
        label.cast("string")
    )
    pairs = [_pairs(place) for place in layout.places]
    return F.concat_ws(" ", whole, *pairs, *[_ending(place) for place in layout.places[-1:]])


def _value(place: Place) -> Column:
    if place.kind == "category":
        return F.get("cat", F.lit(place.at))
    if place.kind == "number":
        return F.get("dense", F.lit(place.at))
    return F.col(f"`{place.name}`")


def _pairs(place: Place) -> Column:
    """The pairs of one feature as text; null where it has none."""
    value, first = _value(place), F.lit(place.first).cast("bigint")
    if place.kind == "category":
        return F.concat((value + first).cast("string"), F.lit(":1"))
    if place.kind == "number":
        return _pair(first, value)
    if place.kind == "vector":
        pairs = F.transform(value, lambda entry, at: _pair(at + first, entry))
    else:
        ids = F.filter(value, lambda one: one > 0)  # 0 is padding
        pairs = F.transform(
            F.array_sort(F.array_distinct(ids)),
            lambda one: _pair(one + first, F.size(F.filter(ids, lambda other: other == one))),
        )
    return F.nullif(F.array_join(pairs, " "), F.lit(""))  # a pair that is null is left out


def _ending(place: Place) -> Column:
    """A zero at the last index of ids, where the row does not have that id; null where it has it."""
    if not place.has_ids:
        return F.lit(None).cast("string")
    ids = F.array(_value(place)) if place.kind == "category" else _value(place)
    return F.when(~F.array_contains(ids, F.lit(place.last - place.first)), F.lit(f"{place.last}:0"))


def _pair(index: Column, value: Column) -> Column:
    text = F.concat(index.cast("string"), F.lit(":"), value.cast("string"))
    return F.when(~F.isnan(value.cast("double")), text)
