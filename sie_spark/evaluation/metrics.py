"""Metrics from counts: every one is a function of sums over bins, so partitions and replicates just add up.

Counts may be fractional (a row of a down-sampled log counts 1 / sampling_rate). Plain numpy, no Spark.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def auc(positive: Floats, negative: Floats) -> float:
    """Area under the ROC curve, ties counted half (Mann and Whitney 1947).

    Parameters
    ----------
    positive, negative:
        float64 [..., B]: counts by bin, in ascending order of the score. Leading axes (replicates) are kept.

    Examples
    --------
    >>> auc(np.array([0.0, 1.0]), np.array([1.0, 1.0]))
    0.75
    """
    below = np.cumsum(negative, axis=-1) - negative
    pairs = (positive * (below + 0.5 * negative)).sum(axis=-1)
    return _scalar(pairs / (positive.sum(axis=-1) * negative.sum(axis=-1)))


def auc_error_bound(positive: Floats, negative: Floats, mixed: NDArray[np.bool_]) -> float:
    """How far binning can have moved the AUC: half the share of pairs in bins of different scores.

    ``mixed`` (bool [B]) says which bins hold more than one score; in the others a pair is a true tie.
    """
    pairs = (positive * negative * mixed).sum(axis=-1)
    return _scalar(0.5 * pairs / (positive.sum(axis=-1) * negative.sum(axis=-1)))


def entropy(rate: float) -> float:
    """Entropy of a Bernoulli variable, in nats."""
    if rate <= 0.0 or rate >= 1.0:
        return 0.0
    return -rate * math.log(rate) - (1.0 - rate) * math.log1p(-rate)


def normalised_entropy(logloss: float, base_rate: float) -> float:
    """Log-loss over that of always predicting the base rate (He et al. 2014); below 1 is better than that."""
    reference = entropy(base_rate)
    return logloss / reference if reference > 0 else math.nan


def calibration_ratio(predicted: float, observed: float) -> float:
    """Sum of p over number of clicks: 1 is calibrated, above 1 promises too many."""
    return predicted / observed if observed > 0 else math.nan


def expected_calibration_error(rows: Floats, observed: Floats, predicted: Floats) -> float:
    """Mean |mean p - click rate| over bins, weighted by rows (Naeini et al. 2015). Sums by bin, [K]."""
    return float(np.abs(predicted - observed).sum() / rows.sum())


def wilson(successes: float, trials: float, *, z: float = 1.959964) -> tuple[float, float]:
    """Score interval of a share (Wilson 1927): sound for few rows and rates near 0."""
    if trials <= 0:
        return 0.0, 1.0
    share, square = successes / trials, z * z
    middle = (share + square / (2 * trials)) / (1 + square / trials)
    half = (
        z * math.sqrt(share * (1 - share) / trials + square / (4 * trials * trials)) / (1 + square / trials)
    )
    return max(0.0, middle - half), min(1.0, middle + half)


def interval(replicates: Floats, confidence: float) -> tuple[float, float] | None:
    """Percentile interval of bootstrap replicates, or None when fewer than ten are finite."""
    finite = replicates[np.isfinite(replicates)]
    if finite.size < 10:
        return None
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(finite, [tail, 1.0 - tail])
    return float(low), float(high)


@dataclass(frozen=True)
class Verdict:
    """What the difference of two arms allows to say, at a margin.

    Parameters
    ----------
    word:
        ``equivalent`` (within the margin on both sides: both one-sided tests reject), ``no worse`` (only
        the lower one does), ``worse`` (the whole interval lies below minus the margin), else ``not shown``.
    low, high:
        the interval that the two one-sided tests at ``alpha`` amount to (confidence 1 - 2 alpha).
    """

    word: str
    low: float
    high: float
    margin: float
    alpha: float


def tost(differences: Floats, margin: float, *, alpha: float = 0.05) -> Verdict | None:
    """Two one-sided tests (Schuirmann 1987) on bootstrap replicates of a difference (candidate - reference)."""
    span = interval(differences, 1.0 - 2.0 * alpha)
    if span is None:
        return None
    low, high = span
    if low > -margin:
        word = "equivalent" if high < margin else "no worse"
    else:
        word = "worse" if high < -margin else "not shown"
    return Verdict(word, low, high, margin, alpha)


def equal_mass_bins(counts: Floats, bins: int) -> NDArray[np.int64]:
    """Groups of neighbouring fine bins with about the same count each: fine bin -> group, [B].

    Example: counts [1, 1, 1, 1] into 2 bins is [0, 0, 1, 1].
    """
    middle = np.cumsum(counts) - 0.5 * counts
    share = middle / max(float(counts.sum()), 1e-300)
    return np.minimum((share * bins).astype(np.int64), bins - 1)


def regroup(values: Floats, groups: NDArray[np.int64], bins: int) -> Floats:
    """Sums of the last axis by group: [..., B] -> [..., bins]."""
    flat = values.reshape(-1, values.shape[-1])
    summed = [np.bincount(groups, weights=row, minlength=bins).astype(np.float64) for row in flat]
    regrouped: Floats = np.stack(summed).reshape(*values.shape[:-1], bins)
    return regrouped


def _scalar(value: Floats) -> float:
    return value if np.ndim(value) else float(value)  # type: ignore[return-value]
