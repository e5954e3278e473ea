"""Poisson bootstrap clustered by group, paired across arms, in one pass and without a shuffle of rows.

Each (group, replicate) draws a Poisson(1) weight from a hash, so that every arm and every partition sees the
same resample (Chamandy et al. 2012); what leaves a partition is a fixed-size histogram a replicate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sie_spark.evaluation import metrics
from sie_spark.evaluation.bins import Edges, bins_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

COARSE = 1024  # bins of a replicate's AUC
CURVE = 20  # bins of calibration
PARTS = 64  # partitions of the pass: bounds what is merged, whatever the number of test rows
CUMULATIVE = np.cumsum([np.exp(-1.0) / factorial for factorial in (1, 1, 2, 6, 24, 120, 720, 5040, 40320)])
MASK = np.uint64(0xFFFFFFFFFFFFFFFF)
SUMS = "arm string, replicate int, positive array<double>, negative array<double>, predicted array<double>, loss double"
VALUES = "replicate int, arm string, metric string, value double"
RATIOS = "arm string, replicate int, top double, bottom double"


def poisson_weights(groups: NDArray[np.int64], replicates: int, seed: int) -> NDArray[np.uint8]:
    """Poisson(1) weights from a hash of (seed, group, replicate): int64 [G] -> uint8 [G, replicates]."""
    with np.errstate(over="ignore"):
        streams = _mix(np.arange(1, replicates + 1, dtype=np.uint64) + _mix(np.array([seed], np.uint64)))
        drawn = _mix(_mix(groups.astype(np.uint64))[:, None] ^ streams[None, :])
    uniform = (drawn >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return np.searchsorted(CUMULATIVE, uniform, side="right").astype(np.uint8)


@dataclass(frozen=True)
class Binning:
    """An arm's fine bins, and how they make up those of a replicate and of the curve."""

    edges: Edges  # [B - 1]
    coarse: NDArray[np.int64]  # [B], in [0, COARSE)
    curve: NDArray[np.int64]  # [B], in [0, CURVE)

    @classmethod
    def over(cls, edges: Edges, mass: NDArray[np.float64]) -> Binning:
        """Coarse bins and those of the curve, each of about equal mass (float64 [B], by fine bin).

        The curve is cut from the coarse bins, so that a coarse bin lies in one of its bins.
        """
        coarse = metrics.equal_mass_bins(mass, COARSE)
        by_coarse = metrics.equal_mass_bins(metrics.regroup(mass, coarse, COARSE), CURVE)
        return cls(edges, coarse, by_coarse[coarse])


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
                    rows, self.binnings[arm], self.seed
                )
        for arm, total in sums.items():
            yield total.as_arrow(arm)


@dataclass
class Sums:
    """Weighted sums of every replicate."""

    positive: NDArray[np.float64]  # [R, COARSE]
    negative: NDArray[np.float64]
    predicted: NDArray[np.float64]  # [R, CURVE]
    loss: NDArray[np.float64]  # [R]

    @classmethod
    def empty(cls, replicates: int) -> Sums:
        """All zero."""
        shapes = ((replicates, COARSE), (replicates, COARSE), (replicates, CURVE), (replicates,))
        return cls(*(np.zeros(shape) for shape in shapes))

    def add(self, rows: pa.RecordBatch, binning: Binning, seed: int) -> None:
        """Add prediction rows of one arm."""
        logit, label = _numpy(rows, "logit"), _numpy(rows, "label")
        value = 1.0 / _numpy(rows, "sampling_rate")
        groups, index = np.unique(rows.column("group_id").to_numpy(), return_inverse=True)
        weights = poisson_weights(groups, len(self.loss), seed)[index]  # [N, R]
        fine = bins_of(logit, binning.edges)
        for target, wanted in ((self.positive, label > 0.5), (self.negative, label <= 0.5)):
            _add_by_bin(target, binning.coarse[fine[wanted]], weights[wanted], value[wanted])
        loss = np.logaddexp(0.0, logit) - label * logit
        sums = np.zeros((len(label), CURVE + 1))
        sums[np.arange(len(label)), binning.curve[fine]] = value / (1.0 + np.exp(-np.clip(logit, -700, 700)))
        sums[:, CURVE] = value * loss
        total = weights.astype(np.float64).T @ sums
        self.predicted += total[:, :CURVE]
        self.loss += total[:, CURVE]

    def as_arrow(self, arm: str) -> pa.RecordBatch:
        """One row a replicate, as SUMS."""
        count = len(self.loss)
        lists = [pa.array(list(values)) for values in (self.positive, self.negative, self.predicted)]
        columns = [pa.array([arm] * count), pa.array(range(count), pa.int32()), *lists, pa.array(self.loss)]
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


def summarise(
    positive: NDArray[np.float64],
    negative: NDArray[np.float64],
    predicted: NDArray[np.float64],
    loss: float,
    curve: NDArray[np.int64],
) -> dict[str, float]:
    """AUC, log-loss, normalised entropy, calibration ratio and ECE from the sums of one arm."""
    clicks, rows = float(positive.sum()), float(positive.sum() + negative.sum())
    if clicks <= 0 or clicks >= rows:
        return {}
    logloss = loss / rows
    by_bin = metrics.regroup(np.stack([positive, negative]), curve, CURVE)
    return {
        "auc": metrics.auc(positive, negative),
        "logloss": logloss,
        "ne": metrics.normalised_entropy(logloss, clicks / rows),
        "calibration": metrics.calibration_ratio(float(predicted.sum()), clicks),
        "ece": metrics.expected_calibration_error(by_bin.sum(axis=0), by_bin[0], predicted),
    }


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
    for row in sums.groupBy("arm", "replicate").agg(F.sum("top"), F.sum("bottom")).collect():
        values = found.setdefault(row["arm"], np.full(replicates, np.nan))
        if row["sum(bottom)"]:
            values[row["replicate"]] = row["sum(top)"] / row["sum(bottom)"]
    return found


def _add_by_bin(
    target: NDArray[np.float64],
    bins: NDArray[np.int64],
    weights: NDArray[np.uint8],
    value: NDArray[np.float64],
) -> None:
    """target[r, bins[i]] += weights[i, r] * value[i], by sorted runs."""
    if not len(bins):
        return
    order = np.argsort(bins, kind="stable")
    ordered = bins[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    if np.all(value == 1.0):
        summed = np.add.reduceat(weights[order], starts, axis=0, dtype=np.int64)
    else:
        summed = np.add.reduceat(weights[order] * value[order, None], starts, axis=0)
    target[:, ordered[starts]] += summed.T


def _numpy(rows: pa.RecordBatch, name: str) -> NDArray[np.float64]:
    return rows.column(name).to_numpy(zero_copy_only=False).astype(np.float64)


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        value = (value + np.uint64(0x9E3779B97F4A7C15)) & MASK
        value = ((value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)) & MASK
        value = ((value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)) & MASK
        return value ^ (value >> np.uint64(31))
