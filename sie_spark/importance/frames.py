"""Scored rows as a data frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sie_spark.importance.worker import ScoreRows

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def score_rows(rows: DataFrame, function: ScoreRows) -> DataFrame:
    """The rows with the function's columns (all double) appended; untouched where it has none."""
    from pyspark.sql.types import DoubleType, StructField, StructType

    if not function.columns:
        return rows
    # Arrow says of no column that it cannot be null
    kept = [StructField(field.name, field.dataType) for field in rows.schema.fields]
    added = [StructField(name, DoubleType()) for name in function.columns]
    return rows.mapInArrow(function, StructType([*kept, *added]))
