"""The one bisection: policies, base rates and the simulator solve a scalar by it."""

from __future__ import annotations

from collections.abc import Callable

STEPS = 100  # halvings: past the last bit of a double


def solve_increasing(function: Callable[[float], float], target: float, low: float, high: float) -> float:
    """The least x in [low, high], to the last bit, with ``function(x) >= target``; ``high`` where there is none.

    Parameters
    ----------
    function:
        non-decreasing on [low, high].
    """
    for _ in range(STEPS):
        middle = (low + high) / 2
        if function(middle) < target:
            low = middle
        else:
            high = middle
    return high
