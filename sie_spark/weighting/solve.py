"""Scalars that make a policy meet its budget, solved by bisection on a bounded sample."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def solve_increasing(function: Callable[[float], float], target: float) -> float:
    """The least scale c in [1e-12, 1e12] with ``function(c) >= target``, for a non-decreasing function.

    Searched in log scale; rounded to 12 digits so that summation order does not show.
    """
    low, high = np.log(1e-12), np.log(1e12)
    for _ in range(100):
        middle = (low + high) / 2
        if function(float(np.exp(middle))) < target:
            low = middle
        else:
            high = middle
    return rounded(float(np.exp(high)))


def scale_for_budget(measure: np.ndarray, budget: float, floor: float) -> float:
    """c with ``mean(clip(c measure, floor, 1)) = budget``.

    Without solving (c = budget / mean measure) truncation at 1 undershoots: by 9 % at a budget of 10 % and 24 %
    at 30 % for log-normal scores.
    """
    return solve_increasing(lambda c: float(np.mean(np.clip(c * measure, floor, 1.0))), budget)


def rounded(value: float) -> float:
    """Twelve significant digits."""
    return float(f"{value:.12g}")
