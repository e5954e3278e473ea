"""Ranking metrics from counts by bin of the score: partitions and replicates just add up.

Counts may be fractional (a row of a down-sampled log counts 1 / sampling_rate).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

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


def auc_difference(label: NDArray[np.bool_], first: Floats, second: Floats) -> tuple[float, float]:
    """AUC of the first score minus that of the second, on the same rows, and its standard error (DeLong et al. 1988).

    Parameters
    ----------
    label:
        bool [N], with rows of both classes.
    first, second:
        float64 [N].
    """
    above_a, below_a = _placements(label, first)
    above_b, below_b = _placements(label, second)
    positive, negative = above_a - above_b, below_a - below_b
    variance = sum(float(np.var(part, ddof=1)) / len(part) for part in (positive, negative) if len(part) > 1)
    return float(positive.mean()), float(np.sqrt(variance))


def _placements(label: NDArray[np.bool_], score: Floats) -> tuple[Floats, Floats]:
    """Of every positive the share of negatives below it, of every negative the share of positives above it."""
    everything = rankdata(score)
    positive, negative = everything[label], everything[~label]
    below = (positive - rankdata(score[label])) / len(negative)
    above = 1.0 - (negative - rankdata(score[~label])) / len(positive)
    return below, above


def _scalar(value: Floats) -> float:
    return value if np.ndim(value) else float(value)  # type: ignore[return-value]
