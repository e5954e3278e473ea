"""Scalars that make a policy meet its budget, solved by bisection on a bounded sample."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from sie_spark.platform.bisection import solve_increasing
from sie_spark.weighting.terms import NUMPY, Row, bounded


def solve_scale(function: Callable[[float], float], target: float) -> float:
    """The least scale c in [1e-12, 1e12] with ``function(c) >= target``, for a non-decreasing function.

    Searched in log scale; rounded to 12 digits so that summation order does not show.
    """
    found = solve_increasing(lambda log: function(math.exp(log)), target, math.log(1e-12), math.log(1e12))
    return rounded(math.exp(found))


def scale_for_budget(measure: np.ndarray, budget: float, floor: float, rows: Row) -> float:
    """c with ``mean(bounded(c measure)) = budget``, see :func:`~sie_spark.weighting.terms.bounded`.

    Without solving (c = budget / mean measure) truncation at 1 undershoots: by 9 % at a budget of 10 % and 24 %
    at 30 % for log-normal scores.
    """
    return solve_scale(lambda c: float(np.mean(bounded(c * measure, floor, rows, NUMPY))), budget)


def rounded(value: float) -> float:
    """Twelve significant digits."""
    return float(f"{value:.12g}")
