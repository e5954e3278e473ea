"""How far predicted probabilities are those observed, from sums over rows or bins."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


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
