"""Point metrics as Spark aggregates over fine bins of the logit: what is collected has a fixed size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sie_spark.evaluation import bootstrap, metrics
from sie_spark.evaluation.bootstrap import COARSE, CURVE, Binning

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

FINE = 16_384
POSITIONS = 20  # positions beyond it share one slice


@dataclass(frozen=True)
class ArmCounts:
    """Sums by fine bin of one arm, float64 [FINE], over all test rows."""

    positive: NDArray[np.float64]
    negative: NDArray[np.float64]
    predicted: NDArray[np.float64]
    loss: float
    binning: Binning

    def point(self) -> dict[str, float]:
        """Metrics of the arm; the AUC from the fine bins, with the bound of its binning error."""
        curve = metrics.regroup(self.predicted, self.binning.curve, CURVE)
        found = bootstrap.summarise(self.positive, self.negative, curve, self.loss, self.binning.curve)
        found["auc_error_bound"] = metrics.auc_error_bound(self.positive, self.negative)
        return found

    def curve(self) -> list[dict[str, float]]:
        """Reliability: by bin of about equal size, mean p and click rate with its 95 % interval."""
        stacked = np.stack([self.positive, self.negative, self.predicted])
        positive, negative, predicted = metrics.regroup(stacked, self.binning.curve, CURVE)
        points = []
        for clicks, others, total in zip(positive, negative, predicted, strict=True):
            rows = float(clicks + others)
            if rows > 0:
                low, high = metrics.wilson(float(clicks), rows)
                points.append(
                    {"p": total / rows, "rate": clicks / rows, "low": low, "high": high, "rows": rows}
                )
        return [{name: float(value) for name, value in point.items()} for point in points]

    def coarse_curve(self) -> NDArray[np.int64]:
        """Curve bin of each coarse bin (they nest: both cut the same fine bins by mass)."""
        mapped = np.zeros(COARSE, dtype=np.int64)
        mapped[self.binning.coarse] = self.binning.curve
        return mapped


def fine_bin(center: Column, scale: Column) -> Column:
    """Fine bin of ``logit``: a logistic map, so that bins are narrow where logits are many."""
    from pyspark.sql import functions as F

    share = F.lit(1.0) / (F.lit(1.0) + F.exp(-(F.col("logit") - center) / scale))
    return F.least(F.floor(share * F.lit(FINE)), F.lit(FINE - 1)).cast("int")


def add_bins(predictions: DataFrame, spread: Mapping[str, tuple[float, float]]) -> DataFrame:
    """Adds ``bin`` by arm and ``value`` = 1 / sampling_rate; ``spread`` is arm -> (mean, sd) of the logit."""
    from pyspark.sql import functions as F

    def by_arm(index: int) -> Column:
        chosen = F.lit(None).cast("double")
        for arm, pair in spread.items():
            chosen = F.when(F.col("arm") == arm, F.lit(pair[index])).otherwise(chosen)
        return chosen

    return predictions.withColumn("bin", fine_bin(by_arm(0), by_arm(1))).withColumn(
        "value", F.lit(1.0) / F.col("sampling_rate").cast("double")
    )


def count_bins(binned: DataFrame, spread: Mapping[str, tuple[float, float]]) -> dict[str, ArmCounts]:
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
            F.sum(value * loss).alias("loss"),
        )
        .toArrow()
    )
    arms, bins = np.asarray(table["arm"].to_pylist()), table["bin"].to_numpy()
    found = {}
    for arm, (center, scale) in spread.items():
        here = arms == arm
        sums = {}
        for name in ("positive", "negative", "predicted"):
            sums[name] = np.zeros(FINE)
            sums[name][bins[here]] = table[name].to_numpy()[here]
        mass = sums["positive"] + sums["negative"]
        # the curve is cut from the coarse bins, so that a coarse bin lies in one of its bins
        coarse = metrics.equal_mass_bins(mass, COARSE)
        by_coarse = metrics.equal_mass_bins(metrics.regroup(mass, coarse, COARSE), CURVE)
        binning = Binning(center, scale, FINE, coarse, by_coarse[coarse])
        found[arm] = ArmCounts(
            **sums, loss=float(np.sort(table["loss"].to_numpy()[here]).sum()), binning=binning
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
        )
    )
    up_to = Window.partitionBy("arm", "kind", "slice").orderBy("bin")
    ranked = cells.withColumn("below", F.sum("negative").over(up_to) - F.col("negative"))
    pairs = F.sum(F.col("positive") * (F.col("below") + 0.5 * F.col("negative")))
    clicks, others = F.sum("positive"), F.sum("negative")
    rows = (
        ranked.groupBy("arm", "kind", "slice")
        .agg(
            F.when(clicks * others > 0, pairs / (clicks * others)).alias("auc"),
            F.when(clicks > 0, F.sum("predicted") / clicks).alias("calibration"),
            (clicks + others).alias("rows"),
            clicks.alias("clicks"),
        )
        .orderBy("kind", "slice", "arm")
    )
    return [row.asDict() for row in rows.limit(2000).collect()]


def group_auc(predictions: DataFrame) -> DataFrame:
    """Rows (arm, group_id, rows, auc) of the groups that have both labels; ties count half."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    group = Window.partitionBy("arm", "group_id")
    up, down = F.rank().over(group.orderBy("logit")), F.rank().over(group.orderBy(F.desc("logit")))
    label = F.col("label").cast("double")
    # the mean rank of a tie lies half way between its least ranks from both ends
    ranked = predictions.select("arm", "group_id", label.alias("label"), up.alias("up"), down.alias("down"))
    rows, clicks = F.count(F.lit(1)).cast("double"), F.sum("label")
    half_way = F.sum(F.col("label") * (F.col("up") - F.col("down"))) / 2.0 + clicks * (rows + 1.0) / 2.0
    return (
        ranked.groupBy("arm", "group_id")
        .agg(
            rows.alias("rows"),
            # a group of one class is divided before it is left out
            F.try_divide(half_way - clicks * (clicks + 1.0) / 2.0, clicks * (rows - clicks)).alias("auc"),
            clicks.alias("clicks"),
        )
        .filter((F.col("clicks") > 0) & (F.col("clicks") < F.col("rows")))
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
