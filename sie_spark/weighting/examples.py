"""The samples that matter most, with the values a person can read, for the report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sie_spark.platform.catalog import union_of_dates
from sie_spark.platform.context import Context

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

EXAMPLES = 20


def top_examples(
    ctx: Context, scores: DataFrame, column: str, *, count: int = EXAMPLES
) -> list[dict[str, Any]]:
    """The ``count`` rows of greatest score with label, p, score and their feature columns; bounded."""
    from pyspark.sql import functions as F

    if column not in scores.columns:
        return []
    wanted = ["sample_id", "event_date", "label", "p", column]
    top = scores.select(*wanted).orderBy(F.desc(column), "sample_id").limit(count).collect()
    if not top:
        return []
    values = feature_values(
        ctx, [int(row["sample_id"]) for row in top], {str(row["event_date"]) for row in top}
    )
    return [
        {
            "sample_id": str(row["sample_id"]),
            "event_date": str(row["event_date"]),
            "label": float(row["label"]),
            "p": float(row["p"]),
            "score": float(row[column]),
            "features": values.get(int(row["sample_id"]), {}),
        }
        for row in top
    ]


def feature_values(ctx: Context, ids: list[int], dates: set[str]) -> dict[int, dict[str, Any]]:
    """sample_id -> feature columns of a few impressions; identifiers are left out, missing values too."""
    from pyspark.sql import functions as F

    if not ctx.catalog.exists("impressions"):
        return {}
    impressions = ctx.catalog.read("impressions")
    named = [
        feature.column for feature in ctx.config.dataset.features if feature.column in impressions.columns
    ]
    columns = list(dict.fromkeys(name for name in named if name not in ctx.config.dataset.identifiers))
    if not columns:
        return {}
    found = (
        impressions.where(union_of_dates(dates))
        .where(F.xxhash64("impression_id").isin(ids))
        .select(F.xxhash64("impression_id").alias("_id"), *columns)
        .limit(len(ids))
        .collect()
    )
    return {
        int(row["_id"]): {name: _plain(row[name]) for name in columns if row[name] is not None}
        for row in found
    }


def _plain(value: Any) -> Any:
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [_plain(item) for item in value[:10]]
    return str(value)
