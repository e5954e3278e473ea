"""Bootstrap replicates of every arm's metrics as Spark passes, without a shuffle of rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sie_spark.metrics.bins import Binning
from sie_spark.metrics.bootstrap import Sums, poisson_weights, summarise

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

PARTS = 64  # partitions of the pass: bounds what is merged, whatever the number of test rows
SUMS = "arm string, replicate int, positive array<double>, negative array<double>, predicted array<double>, loss double"
VALUES = "replicate int, arm string, metric string, value double"
RATIOS = "arm string, replicate int, top double, bottom double"


@dataclass(frozen=True)
class Replicates:
    """A ``mapInArrow`` function: prediction rows in, one row of sums an arm and replicate out (SUMS)."""

    binnings: dict[str, Binning]
    replicates: int
    seed: int

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Nothing for an empty partition."""
        sums: dict[str, Sums] = {}
        for batch in batches:
            names = np.asarray(batch.column("arm").to_pylist())
            for arm in np.unique(names):
                rows = batch.filter(pa.array(names == arm))
                sums.setdefault(str(arm), Sums.empty(self.replicates)).add(
                    _numpy(rows, "logit"),
                    _numpy(rows, "label"),
                    1.0 / _numpy(rows, "sampling_rate"),
                    rows.column("group_id").to_numpy(),
                    binning=self.binnings[arm],
                    seed=self.seed,
                )
        for arm, total in sums.items():
            yield _as_arrow(arm, total)


def _as_arrow(arm: str, sums: Sums) -> pa.RecordBatch:
    """One row a replicate, as SUMS."""
    count = len(sums.loss)
    lists = [pa.array(list(values)) for values in (sums.positive, sums.negative, sums.predicted)]
    columns = [pa.array([arm] * count), pa.array(range(count), pa.int32()), *lists, pa.array(sums.loss)]
    return pa.RecordBatch.from_arrays(
        columns, names=["arm", "replicate", "positive", "negative", "predicted", "loss"]
    )


def judge(replicate: int, table: pa.Table, curves: dict[str, NDArray[np.int64]]) -> pa.Table:
    """The sums of one replicate from all partitions in, its metrics out: one row an arm and metric (VALUES).

    ``curves`` is arm -> curve bin of each coarse bin.
    """
    found: list[dict[str, object]] = []
    names = np.asarray(table.column("arm").to_pylist())
    for arm in np.unique(names):
        rows = table.filter(pa.array(names == arm))
        positive, negative, predicted = (
            np.sum(rows.column(name).to_pylist(), axis=0) for name in ("positive", "negative", "predicted")
        )
        loss = float(np.sum(rows.column("loss").to_numpy()))
        for name, value in summarise(positive, negative, predicted, loss, curves[arm]).items():
            found.append({"replicate": replicate, "arm": str(arm), "metric": name, "value": value})
    schema = pa.schema(
        [("replicate", pa.int32()), ("arm", pa.string()), ("metric", pa.string()), ("value", pa.float64())]
    )
    return pa.Table.from_pylist(found, schema=schema)


@dataclass(frozen=True)
class GroupReplicates:
    """A ``mapInArrow`` function: rows (arm, group_id, rows, auc) in, sums of rows * auc and rows out (RATIOS)."""

    replicates: int
    seed: int

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Nothing for an empty partition."""
        totals: dict[str, NDArray[np.float64]] = {}
        for batch in batches:
            weights = poisson_weights(batch.column("group_id").to_numpy(), self.replicates, self.seed)
            size = _numpy(batch, "rows")
            values = np.stack([size * _numpy(batch, "auc"), size], axis=1)
            names = np.asarray(batch.column("arm").to_pylist())
            for arm in np.unique(names):
                here = names == arm
                total = totals.setdefault(str(arm), np.zeros((self.replicates, 2)))
                total += weights[here].astype(np.float64).T @ values[here]
        for arm, total in totals.items():
            index = pa.array(range(self.replicates), pa.int32())
            columns = [pa.array([arm] * self.replicates), index, pa.array(total[:, 0]), pa.array(total[:, 1])]
            yield pa.RecordBatch.from_arrays(columns, names=["arm", "replicate", "top", "bottom"])


def replicate_metrics(
    predictions: DataFrame,
    binnings: dict[str, Binning],
    curves: dict[str, NDArray[np.int64]],
    *,
    replicates: int,
    seed: int,
) -> dict[tuple[str, str], NDArray[np.float64]]:
    """(arm, metric) -> values by replicate, paired across arms (the same resample at the same index)."""
    rows = predictions.select("arm", "group_id", "label", "logit", "sampling_rate").coalesce(PARTS)
    sums = rows.mapInArrow(Replicates(binnings, replicates, seed), SUMS)

    def judge_one(key: tuple[pa.Scalar, ...], table: pa.Table) -> pa.Table:
        return judge(key[0].as_py(), table, curves)

    judged = sums.groupBy("replicate").applyInArrow(judge_one, VALUES)
    found: dict[tuple[str, str], NDArray[np.float64]] = {}
    for row in judged.collect():  # replicates x arms x metrics
        values = found.setdefault((row["arm"], row["metric"]), np.full(replicates, np.nan))
        values[row["replicate"]] = row["value"]
    return found


def replicate_group_auc(groups: DataFrame, *, replicates: int, seed: int) -> dict[str, NDArray[np.float64]]:
    """arm -> gAUC by replicate, from rows (arm, group_id, rows, auc)."""
    from pyspark.sql import functions as F

    sums = groups.coalesce(PARTS).mapInArrow(GroupReplicates(replicates, seed), RATIOS)
    found: dict[str, NDArray[np.float64]] = {}
    ratios = sums.groupBy("arm", "replicate").agg(F.sum("top"), F.sum("bottom"))
    for row in ratios.collect():  # replicates x arms
        values = found.setdefault(row["arm"], np.full(replicates, np.nan))
        if row["sum(bottom)"]:
            values[row["replicate"]] = row["sum(top)"] / row["sum(bottom)"]
    return found


def _numpy(rows: pa.RecordBatch, name: str) -> NDArray[np.float64]:
    return rows.column(name).to_numpy(zero_copy_only=False).astype(np.float64)
