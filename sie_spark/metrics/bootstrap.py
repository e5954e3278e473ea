"""Poisson bootstrap clustered by group, paired across models, in one pass over the rows.

Each (group, replicate) draws a Poisson(1) weight from a hash, so that every model and every partition sees the
same resample (Chamandy et al. 2012); what is kept of the rows is a fixed-size histogram a replicate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sie_spark.metrics.bins import COARSE, CURVE, Binning, bins_of, regroup
from sie_spark.metrics.calibration import calibration_ratio, expected_calibration_error, normalised_entropy
from sie_spark.metrics.ranking import auc

CUMULATIVE = np.cumsum([np.exp(-1.0) / factorial for factorial in (1, 1, 2, 6, 24, 120, 720, 5040, 40320)])
MASK = np.uint64(0xFFFFFFFFFFFFFFFF)

Floats = NDArray[np.float64]


def poisson_weights(groups: NDArray[np.int64], replicates: int, seed: int) -> NDArray[np.uint8]:
    """Poisson(1) weights from a hash of (seed, group, replicate): int64 [G] -> uint8 [G, replicates]."""
    with np.errstate(over="ignore"):
        streams = _mix(np.arange(1, replicates + 1, dtype=np.uint64) + _mix(np.array([seed], np.uint64)))
        drawn = _mix(_mix(groups.astype(np.uint64))[:, None] ^ streams[None, :])
    uniform = (drawn >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return np.searchsorted(CUMULATIVE, uniform, side="right").astype(np.uint8)


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

    def add(
        self,
        logit: Floats,
        label: Floats,
        value: Floats,
        group: NDArray[np.int64],
        *,
        binning: Binning,
        seed: int,
    ) -> None:
        """Add N rows of one arm, each standing for ``value`` rows; rows of one ``group`` are drawn together."""
        groups, index = np.unique(group, return_inverse=True)
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
    by_bin = regroup(np.stack([positive, negative]), curve, CURVE)
    return {
        "auc": auc(positive, negative),
        "logloss": logloss,
        "ne": normalised_entropy(logloss, clicks / rows),
        "calibration": calibration_ratio(float(predicted.sum()), clicks),
        "ece": expected_calibration_error(by_bin.sum(axis=0), by_bin[0], predicted),
    }


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


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        value = (value + np.uint64(0x9E3779B97F4A7C15)) & MASK
        value = ((value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)) & MASK
        value = ((value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)) & MASK
        return value ^ (value >> np.uint64(31))
