"""What bootstrap replicates allow to say: an interval, and a verdict at a margin that was set before."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


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
