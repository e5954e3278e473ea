"""Fits an encoder on training rows: vocabularies, scales, quantiles and principal components, then frozen.

Counts and moments come from all training rows; quantile edges and components from a bounded sample that is
chosen by a hash of the row's id, so that it does not depend on the layout of the table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np

from sie_spark.features.contents import content_in_spark, is_there, state_of
from sie_spark.features.encoder import Encoder, Fitted
from sie_spark.features.hashing import unit_interval
from sie_spark.features.identifiers import Category, IdList
from sie_spark.features.numbers import LEVELS, Number, Pieces
from sie_spark.features.resolve import Resolved
from sie_spark.features.vectors import Vector, principal_components
from sie_spark.features.vocabulary import INLINE, Hashed, Ids, Vocabulary
from sie_spark.platform.errors import DataError
from sie_spark.platform.root import Root

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

QUANTILE_ROWS = 200_000
COMPONENT_ROWS = 20_000
FAR = 100.0  # a mean this many standard deviations from zero is summed again, about itself
DRAFTS = ("encoders", "vocabulary", "draft")


@dataclass(frozen=True)
class Training:
    """What a fit may see: the training rows, how many they are, and where side files go."""

    rows: DataFrame
    count: int
    root: Root
    inline: int = INLINE

    def sample(self, size: int) -> DataFrame:
        """About ``size`` rows, never more than 1.5 times as many, the same whatever the layout."""
        from pyspark.sql import functions as F

        if self.count <= size:
            return self.rows
        chosen = unit_interval("impression_id", F.lit("fit")) < F.lit(size / self.count)
        return self.rows.filter(chosen).limit(size + size // 2)


def fit(training: Training, features: Sequence[Resolved], fitted: dict[str, Any] | None = None) -> Encoder:
    """An encoder for the resolved features.

    Raises
    ------
    DataError
        when a vector column holds nothing usable.
    """
    ids = _fit_ids(training, features)
    numbers, usable = _fit_numbers(training, features)
    result: list[Fitted] = []
    for feature in features:
        settings = feature.settings
        if settings.kind == "category":
            result.append(Category(feature.name, feature.expression, feature.type_name, ids[feature.name]))
        elif settings.kind == "number":
            result.append(numbers[feature.name])
        elif settings.kind == "vector":
            lacked = usable[feature.name] < training.count
            indicator = settings.missing_indicator and lacked
            result.append(replace(_fit_vector(training, feature), indicator=indicator))
        else:
            result.append(
                IdList(
                    feature.name,
                    feature.expression,
                    feature.type_name,
                    ids[settings.shares or feature.name],
                    settings.length,
                    settings.kind,
                    settings.ngrams,
                    settings.shares,
                )
            )
    return Encoder(tuple(result), fitted or {})


def _fit_ids(training: Training, features: Sequence[Resolved]) -> dict[str, Ids]:
    """Hash or vocabulary of every feature that owns one; one job counts them all."""
    ids: dict[str, Ids] = {}
    counted: list[Resolved] = []
    for feature in features:
        if feature.settings.kind in ("number", "vector") or feature.settings.shares:
            continue
        if feature.settings.hash_size is not None:
            ids[feature.name] = Hashed(feature.settings.hash_size)
        else:
            counted.append(feature)
    if not counted:
        return ids
    for name, values in _frequent(training, counted).items():
        feature = next(one for one in counted if one.name == name)
        if len(values) > training.inline:
            ids[name] = _side_file(training, feature)
        else:
            ids[name] = Vocabulary(len(values) + 1, tuple(values))
    return ids


def _counts(training: Training, feature: Resolved) -> DataFrame:
    """value, n of the values that reach min_count."""
    from pyspark.sql import functions as F

    source = feature.fitted().source()
    if feature.settings.kind != "category":
        source = F.explode(source)
    counts = training.rows.select(source.alias("value")).groupBy("value").agg(F.count("*").alias("n"))
    return counts.filter(F.col("n") >= feature.settings.min_count)


def _frequent(training: Training, features: Sequence[Resolved]) -> dict[str, list[str]]:
    """The most frequent values of each feature, at most one more than fits inline."""
    from pyspark.sql import DataFrame
    from pyspark.sql import functions as F

    order = [F.col("n").desc(), F.col("value").asc()]
    parts = []
    for at, feature in enumerate(features):
        limit = min(training.inline + 1, feature.settings.max_vocabulary - 1)
        top = _counts(training, feature).orderBy(*order).limit(limit)
        parts.append(top.select(F.lit(at).alias("feature"), "value", "n"))
    table = reduce(DataFrame.unionAll, parts).toArrow()
    table = table.sort_by([("feature", "ascending"), ("n", "descending"), ("value", "ascending")])
    found: dict[str, list[str]] = {feature.name: [] for feature in features}
    for at, value in zip(table["feature"].to_pylist(), table["value"].to_pylist(), strict=True):
        found[features[at].name].append(value)
    return found


def _side_file(training: Training, feature: Resolved) -> Vocabulary:
    """A vocabulary too large for JSON: numbered by Spark, in Parquet, named by its content."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    spark, root = training.rows.sparkSession, training.root
    order = [F.col("n").desc(), F.col("value").asc()]
    # the rarest are left out before the one task that numbers the others
    frequent = _counts(training, feature).orderBy(*order).limit(feature.settings.max_vocabulary - 1)
    numbered = frequent.withColumn("id", F.row_number().over(Window.orderBy(*order)))
    draft = (*DRAFTS, feature.name)
    try:
        numbered.select("value", "id", "n").write.mode("overwrite").parquet(root.path(*draft))
        table = spark.read.parquet(root.path(*draft))
        content = content_in_spark(spark, root.path(*draft), state_of(root.path(*draft)))
        path = f"vocabulary/{content.name}"
        # not whole, changed by hand, or without a value that was forgotten and came back
        if not is_there(spark, root.path("encoders", path), content):
            table.coalesce(1).write.mode("overwrite").parquet(root.path("encoders", path))
    finally:
        root.remove(*draft)  # it holds identifiers
    return Vocabulary(content.rows + 1, None, path, root.path("encoders"))


def _fit_numbers(
    training: Training, features: Sequence[Resolved]
) -> tuple[dict[str, Number], dict[str, int]]:
    """The numbers, and of each vector how many rows can be used; one job (after one for quantile edges).

    Numbers far from zero take a second one.
    """
    from pyspark.sql import functions as F

    declared = [feature for feature in features if feature.settings.kind == "number"]
    pieces = _fit_quantiles(training, [one for one in declared if one.settings.transform == "quantile"])
    numbers, values = [], {}
    for feature in declared:
        number = feature.fitted()
        assert isinstance(number, Number)
        numbers.append(replace(number, pieces=pieces.get(feature.name)))
        values[feature.name] = numbers[-1].transformed(number.source())
    vectors = [one for one in features if one.settings.kind == "vector"]
    usable = {one.name: F.when(one.fitted().source().isNotNull(), F.lit(0.0)) for one in vectors}
    moments = _moments(training.rows, {**values, **usable})
    for feature in vectors:
        if feature.settings.components is None and not moments[feature.name].count:
            raise _unusable(training, feature, "no training row has")
    far = {
        name: found.mean
        for name, found in moments.items()
        if found.low < found.high and not abs(found.mean) <= FAR * found.deviation
    }
    about = _moments(training.rows, {name: values[name] - F.lit(mean) for name, mean in far.items()})
    for name, found in about.items():
        mean = far[name] + found.mean
        moments[name] = replace(moments[name], mean=mean, deviation=found.deviation)
    result = {}
    for feature, number in zip(declared, numbers, strict=True):
        found = moments[feature.name]
        standard = feature.settings.scale == "standard"
        mean, scale = _standard(found) if standard and found.count else (0.0, 1.0)
        indicator = feature.settings.missing_indicator and found.count < training.count
        result[number.name] = replace(number, mean=mean, scale=scale, limited=standard, indicator=indicator)
    return result, {name: moments[name].count for name in usable}


@dataclass(frozen=True)
class Moments:
    """Of the values that are there; zeros where none is."""

    count: int
    low: float
    high: float
    mean: float
    deviation: float  # of the population


def _moments(rows: DataFrame, columns: Mapping[str, Column]) -> dict[str, Moments]:
    """Moments of each column, in one job: from sums, a fourth of the work of Spark's ``stddev_pop``.

    As exact as that where the mean is not far from zero (:data:`FAR`): what is lost is the share that the
    mean's square has in the sum of squares, 4 of 15 digits at most.
    """
    from pyspark.sql import functions as F

    def squares(name: str) -> Column:
        return F.sum(F.col(name) * F.col(name))

    found = {}
    for name, summed in _aggregate(rows, columns, F.count, F.min, F.max, F.sum, squares).items():
        count, low, high, total, square = (value or 0 for value in summed)
        mean = total / max(count, 1)
        deviation = math.sqrt(max(square / max(count, 1) - mean * mean, 0.0))
        found[name] = Moments(count, low, high, mean, deviation)
    return found


def _aggregate(
    rows: DataFrame, columns: Mapping[str, Column], *functions: Callable[[str], Column]
) -> dict[str, tuple[Any, ...]]:
    """Name -> what each function makes of the column, in one job."""
    if not columns:
        return {}
    wide = rows.select(*[column.alias(name) for name, column in columns.items()])
    row = wide.agg(*[function(f"`{name}`") for name in columns for function in functions]).first()
    assert row is not None
    return {name: row[at * len(functions) :][: len(functions)] for at, name in enumerate(columns)}


def _standard(found: Moments) -> tuple[float, float]:
    """Mean and scale to six digits of the scale: sums in another order must not give another artefact.

    >>> _standard(Moments(9, -90.0, 90.0, 1709251234.1234567, 8.66025403784))
    (1709251234.12346, 8.66025)
    """
    if found.low == found.high:  # no sum is as exact
        return found.low + 0.0, 1.0
    scale = float(f"{found.deviation:.6g}") or 1.0
    return round(found.mean, 5 - math.floor(math.log10(scale))) + 0.0, scale


def _fit_quantiles(training: Training, features: Sequence[Resolved]) -> dict[str, Pieces]:
    from pyspark.sql import functions as F

    if not features:
        return {}
    levels = F.array(*[F.lit(level) for level in LEVELS])
    sources = [feature.fitted().source().alias(feature.name) for feature in features]
    sample = training.sample(QUANTILE_ROWS).select(*sources)
    row = sample.agg(*[F.percentile(f"`{feature.name}`", levels) for feature in features]).first()
    assert row is not None
    return {
        feature.name: Pieces.of([float(value) for value in values])
        for feature, values in zip(features, row, strict=True)
        if values is not None
    }


def _fit_vector(training: Training, feature: Resolved) -> Vector:
    vector = feature.fitted()
    assert isinstance(vector, Vector)
    if feature.settings.components is None:
        return vector
    from pyspark.sql import functions as F

    sample = training.sample(COMPONENT_ROWS).select(F.col("impression_id"), vector.source().alias("v"))
    table = sample.filter(F.col("v").isNotNull()).toArrow().sort_by("impression_id")
    if table.num_rows < 2:
        raise _unusable(training, feature, "fewer than two training rows of the sample have")
    matrix = np.asarray(table["v"].combine_chunks().flatten(), dtype=np.float64).reshape(-1, vector.size)
    loadings, centre, explained = principal_components(matrix, feature.settings.components)
    return replace(
        vector,
        loadings=tuple(tuple(float(value) for value in row) for row in loadings),
        centre=tuple(float(value) for value in centre),
        explained=round(explained, 4),
    )


def _unusable(training: Training, feature: Resolved, who: str) -> DataError:
    """What to say of a vector column: what was expected, and what came."""
    from pyspark.sql import functions as F

    value, size = F.expr(feature.expression), feature.settings.size
    lengths = {feature.name: F.when(value.isNotNull(), F.size(value))}
    low, high = _aggregate(training.rows, lengths, F.min, F.max)[feature.name]
    if low is None:
        came = "it is null in every row"
    else:
        came = f"its arrays are {low} to {high} long" if low < high else f"its arrays are {low} long"
        came += f"; of those of {size}, each holds a null, NaN or infinity" if low <= size <= high else ""
    return DataError(
        f"feature '{feature.name}': {who} {size} finite values; {came}",
        remedy="correct size or the column in dataset.features, or leave the feature out",
    )
