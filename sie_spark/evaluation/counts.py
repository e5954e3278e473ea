"""Point metrics as Spark aggregates over fine bins of the logit: what is collected has a fixed size.

Every sum is weighted by ``value`` = 1 / sampling_rate, so that a down-sampled log is judged as the whole one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sie_spark.metrics.bins import COARSE, CURVE, Binning, Edges, regroup
from sie_spark.metrics.bootstrap import summarise
from sie_spark.metrics.calibration import wilson
from sie_spark.metrics.ranking import auc, auc_error_bound

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

POSITIONS = 20  # positions beyond it share one slice


@dataclass(frozen=True)
class Clusters:
    """What is resampled together, and how many of them there are.

    Parameters
    ----------
    group:
        what one value of the group column is: ``user``, ``session``, ...
    groups:
        its distinct values.
    by_row:
        each row is taken as independent: the group column holds one value only, or another one in every row.
    effective:
        ``(sum n)^2 / sum n^2`` over the weights n of the groups, or of the rows: so many of equal weight carry
        as much (Kish 1965).
    """

    group: str
    groups: int
    by_row: bool
    effective: float

    @property
    def unit(self) -> str:
        """What is resampled, in the singular."""
        return "row" if self.by_row else self.group


@dataclass(frozen=True)
class ArmCounts:
    """Sums by fine bin of one arm, float64 [B], over all test rows."""

    positive: NDArray[np.float64]
    negative: NDArray[np.float64]
    predicted: NDArray[np.float64]
    squares: NDArray[np.float64]  # of the weights
    mixed: NDArray[np.bool_]  # whether the bin holds different logits
    loss: float
    binning: Binning

    def point(self) -> dict[str, float]:
        """Metrics of the arm; the AUC from the fine bins, with the bound of its binning error."""
        curve = regroup(self.predicted, self.binning.curve, CURVE)
        found = summarise(self.positive, self.negative, curve, self.loss, self.binning.curve)
        found["auc_error_bound"] = auc_error_bound(self.positive, self.negative, self.mixed)
        return found

    def coarse_auc(self) -> float:
        """AUC from the bins of a replicate: what replicates vary about."""
        counts = regroup(np.stack([self.positive, self.negative]), self.binning.coarse, COARSE)
        return auc(counts[0], counts[1])

    def curve(self) -> list[dict[str, float]]:
        """Reliability: by bin of about equal weight, mean p and click rate with its 95 % interval."""
        stacked = np.stack([self.positive, self.negative, self.predicted, self.squares])
        points = []
        for clicks, others, total, squares in regroup(stacked, self.binning.curve, CURVE).T:
            rows = clicks + others
            if rows > 0:
                rate, trials = clicks / rows, rows**2 / squares
                low, high = wilson(rate * trials, trials)
                points.append({"p": total / rows, "rate": rate, "low": low, "high": high, "rows": rows})
        return [{name: float(value) for name, value in point.items()} for point in points]

    def coarse_curve(self) -> NDArray[np.int64]:
        """Curve bin of each coarse bin (they nest: both cut the same fine bins by mass)."""
        mapped = np.zeros(COARSE, dtype=np.int64)
        mapped[self.binning.coarse] = self.binning.curve
        return mapped


def clusters(test: DataFrame, group: str | None) -> Clusters:
    """The units of ``test`` rows (``group_id``, ``sampling_rate``) that are resampled; ``group`` names the column."""
    from pyspark.sql import functions as F

    value = F.lit(1.0) / F.col("sampling_rate").cast("double")
    of_group = [
        F.count(F.lit(1)).alias("rows"),
        F.sum(value).alias("n"),
        F.sum(value * value).alias("squares"),
    ]
    found = (
        test.groupBy("group_id")
        .agg(*of_group)
        .agg(
            F.count(F.lit(1)).alias("groups"),
            F.sum("rows").alias("rows"),
            F.sum("n").alias("n"),
            F.sum(F.col("n") * F.col("n")).alias("group_squares"),
            F.sum("squares").alias("row_squares"),
        )
        .first()
    )
    assert found is not None  # an aggregate of no rows is one row
    groups, rows = int(found["groups"]), int(found["rows"])
    by_row = groups in (1, rows)
    squares = found["row_squares"] if by_row else found["group_squares"]
    noun = (group or "group").removesuffix("_id").replace("_", " ")
    return Clusters(noun, groups, by_row, float(found["n"]) ** 2 / float(squares))


def count_bins(binned: DataFrame, edges: Mapping[str, Edges]) -> dict[str, ArmCounts]:
    """Sums by arm and bin (at most FINE rows an arm)."""
    from pyspark.sql import functions as F

    logit, label, value = F.col("logit"), F.col("label").cast("double"), F.col("value")
    loss = F.greatest(logit, F.lit(0.0)) - logit * label + F.log1p(F.exp(-F.abs(logit)))
    table = (
        binned.groupBy("arm", "bin")
        .agg(
            F.sum(value * label).alias("positive"),
            F.sum(value * (1.0 - label)).alias("negative"),
            F.sum(value * F.col("p")).alias("predicted"),
            F.sum(value * value).alias("squares"),
            F.sum(value * loss).alias("loss"),
            (F.min(logit) < F.max(logit)).alias("mixed"),
        )
        .toArrow()
    )
    arms, bins = np.asarray(table["arm"].to_pylist()), table["bin"].to_numpy()
    found = {}
    for arm, inner in edges.items():
        here = arms == arm
        sums = {}
        for name in ("positive", "negative", "predicted", "squares"):
            sums[name] = np.zeros(len(inner) + 1)
            sums[name][bins[here]] = table[name].to_numpy()[here]
        mixed = np.zeros(len(inner) + 1, dtype=bool)
        mixed[bins[here]] = table["mixed"].to_numpy()[here]
        found[arm] = ArmCounts(
            **sums,
            mixed=mixed,
            loss=float(np.sort(table["loss"].to_numpy()[here]).sum()),
            binning=Binning.over(inner, sums["positive"] + sums["negative"]),
        )
    return found


def slices(binned: DataFrame, columns: Sequence[str]) -> list[dict[str, Any]]:
    """AUC, calibration, rows and clicks by arm and slice (day, position, columns ``slice_*``).

    A row that has no position is in none of the slices by position.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    # least() passes over nulls: a row without a position would be far down the list
    position = F.when(F.col("position") >= 0, F.least("position", F.lit(POSITIONS + 1)))
    kinds = [
        _slice("day", F.col("event_date").cast("string")),
        _slice("position", F.lpad(position.cast("string"), 2, "0")),
        *[_slice(name.removeprefix("slice_"), F.col(name)) for name in columns],
    ]
    label, value = F.col("label").cast("double"), F.col("value")
    cells = (
        binned.withColumn("slice", F.explode(F.array(*kinds)))
        .filter(F.col("slice.value").isNotNull())
        .groupBy("arm", F.col("slice.kind").alias("kind"), F.col("slice.value").alias("slice"), "bin")
        .agg(
            F.sum(value * label).alias("positive"),
            F.sum(value * (1.0 - label)).alias("negative"),
            F.sum(value * F.col("p")).alias("predicted"),
            (F.min("logit") < F.max("logit")).alias("mixed"),
        )
    )
    up_to = Window.partitionBy("arm", "kind", "slice").orderBy("bin")
    ranked = cells.withColumn("below", F.sum("negative").over(up_to) - F.col("negative"))
    pairs = F.sum(F.col("positive") * (F.col("below") + 0.5 * F.col("negative")))
    unsure = F.sum(F.when(F.col("mixed"), F.col("positive") * F.col("negative")).otherwise(0.0))
    clicks, others = F.sum("positive"), F.sum("negative")
    rows = (
        ranked.groupBy("arm", "kind", "slice")
        .agg(
            F.when(clicks * others > 0, pairs / (clicks * others)).alias("auc"),
            F.when(clicks * others > 0, 0.5 * unsure / (clicks * others)).alias("auc_error_bound"),
            F.when(clicks > 0, F.sum("predicted") / clicks).alias("calibration"),
            (clicks + others).alias("rows"),
            clicks.alias("clicks"),
        )
        .orderBy("kind", "slice", "arm")
    )
    return [row.asDict() for row in rows.limit(2000).collect()]


def group_auc(predictions: DataFrame) -> DataFrame:
    """Rows (arm, group_id, rows, auc) of the groups that have both labels; ties count half.

    ``rows`` is the group's weight, the sum of 1 / sampling_rate, and the AUC weighs each pair by both rows'.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    group = Window.partitionBy("arm", "group_id")
    label = F.col("label").cast("double")
    value = F.lit(1.0) / F.col("sampling_rate").cast("double")
    negative = value * (1.0 - label)
    # a window by range takes in the ties: the negatives at or below a logit, and those at or above it
    below, above = (F.sum(negative).over(group.orderBy(order)) for order in (F.col("logit"), F.desc("logit")))
    ranked = predictions.select(
        *("arm", "group_id"),
        (value * label).alias("positive"),
        negative.alias("negative"),
        below.alias("below"),
        above.alias("above"),
    )
    clicks, others = F.sum("positive"), F.sum("negative")
    # half the ties lie below: below - ties / 2 = (below + others - above) / 2
    pairs = (F.sum(F.col("positive") * (F.col("below") - F.col("above"))) + clicks * others) / 2.0
    return (
        ranked.groupBy("arm", "group_id")
        .agg(
            (clicks + others).alias("rows"),
            # a group of one class is divided before it is left out
            F.try_divide(pairs, clicks * others).alias("auc"),
            clicks.alias("clicks"),
            others.alias("others"),
        )
        .filter((F.col("clicks") > 0) & (F.col("others") > 0))
        .select("arm", "group_id", "rows", "auc")
    )


def frequency_slice(ids: int, index: int) -> Column:
    """How frequent an id is, from its place in a vocabulary ordered by frequency (0: never seen, or rare)."""
    from pyspark.sql import functions as F

    rank = F.get("cat", F.lit(index)) / F.lit(float(max(ids - 1, 1)))
    return (
        F.when(rank == 0, "5 unseen or rare")
        .when(rank <= 0.01, "1 top 1 %")
        .when(rank <= 0.1, "2 next 9 %")
        .when(rank <= 0.5, "3 next 40 %")
        .otherwise("4 last half")
    )


def _slice(kind: str, value: Column) -> Column:
    from pyspark.sql import functions as F

    return F.struct(F.lit(kind).alias("kind"), value.alias("value"))
