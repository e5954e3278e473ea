"""Divide and conquer: scores are made comparable within parts of the rows, a day or a category, and put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from sie_spark.platform.draws import at_most
from sie_spark.platform.errors import ConfigError
from sie_spark.platform.inputs import InputSpec

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

MOST_PARTS = 10_000
STRENGTH = (
    20.0  # rows of the whole that a part's mean is mixed with: a part of few rows has no mean of its own
)
KEY, FACTOR = "__part_", "__factor_"
SEED, PURPOSE = 0, "parts"
FREE = ("event_date", "position", "split")  # columns of samples beside the categories


def part_columns(by: Sequence[str], columns: Sequence[str], inputs: InputSpec) -> list[Column]:
    """What tells the parts apart: columns of the samples, and ids of categories.

    Raises
    ------
    ConfigError
        for a name that is neither.
    """
    from pyspark.sql import functions as F

    places = {name: place for place, name in enumerate(inputs.categories)}
    found = []
    for number, name in enumerate(by):
        if name in places:
            found.append(F.col("cat")[places[name]].alias(f"{KEY}{number}"))
        elif name in FREE and name in columns:
            found.append(F.col(name).alias(f"{KEY}{number}"))
        else:
            able = [*(column for column in FREE if column in columns), *places]
            raise ConfigError(
                f"importance.by: no part is called '{name}'", remedy=f"choose among {', '.join(able)}"
            )
    return found


def sums_by_part(rows: DataFrame, parts: Sequence[Column], names: Sequence[str]) -> pa.Table:
    """A row a part: its keys, ``__rows``, and by score the sum of ``|s|``; one pass over scored rows, a bounded sample.

    Raises
    ------
    ConfigError
        for more than ``MOST_PARTS`` parts.
    """
    from pyspark.sql import functions as F

    keys = [f"{KEY}{number}" for number in range(len(parts))]
    sums = [F.sum(F.abs(F.col(name))).alias(name) for name in names]
    by_part = rows.select("*", *parts).groupBy(*keys).agg(F.count(F.lit(1)).alias("__rows"), *sums)
    counted: pa.Table = by_part.limit(MOST_PARTS + 1).toArrow()  # bounded
    if counted.num_rows > MOST_PARTS:
        raise ConfigError(
            f"importance.by makes more than {MOST_PARTS:,} parts",
            remedy="choose columns of fewer values, for example [event_date]",
        )
    return counted


def whole_means(counted: pa.Table, names: Sequence[str]) -> dict[str, float]:
    """Score -> mean size ``|s|`` over the rows of all parts."""
    rows = pc.sum(counted["__rows"]).as_py() or 0
    return {name: (pc.sum(counted[name]).as_py() or 0.0) / rows if rows else 0.0 for name in names}


def factors(spark: SparkSession, counted: pa.Table, means: Mapping[str, float]) -> DataFrame:
    """A row a part: its keys, and by score what its values are multiplied by.

    The factor is the mean size of the whole over that of the part, so that signs, zeros and the unit stay.

    Parameters
    ----------
    counted:
        see :func:`sums_by_part`.
    means:
        that the parts are brought to, see :func:`whole_means`.
    """
    from pyspark.sql import functions as F

    made = spark.createDataFrame(counted)
    own = {
        name: (F.col(name) + STRENGTH * mean) / (F.col("__rows") + STRENGTH) for name, mean in means.items()
    }
    return made.select(
        *[name for name in counted.column_names if name.startswith(KEY)],
        *[
            F.when(value > 0, F.lit(means[name]) / value).otherwise(1.0).alias(f"{FACTOR}{name}")
            for name, value in own.items()
        ],
    )


def merged(rows: DataFrame, parts: Sequence[Column], scale: DataFrame, names: Sequence[str]) -> DataFrame:
    """The rows with their scores multiplied; a part that the sample has not met keeps its own."""
    from pyspark.sql import functions as F

    keys = [f"{KEY}{number}" for number in range(len(parts))]
    given = rows.select("*", *parts)
    matched = given.join(scale, [given[key].eqNullSafe(scale[key]) for key in keys], "left")
    scaled: dict[str, Any] = {
        name: F.col(name) * F.coalesce(F.col(f"{FACTOR}{name}"), F.lit(1.0)) for name in names
    }
    return matched.select(*[scaled.get(name, given[name]).alias(name) for name in rows.columns])


def sampled(rows: DataFrame, limit: int) -> DataFrame:
    """About ``limit`` rows at most, by a hash of their ids."""
    return at_most(rows, limit, seed=SEED, purpose=PURPOSE)[0]
