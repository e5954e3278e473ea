"""How the rate at which a log was down-sampled before we saw it is undone."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class SamplingRate:
    """How the rate of an already down-sampled log is undone: a constant log-odds offset, or weights 1/rate."""

    offset: float = 0.0
    weight_by_rate: bool = False


def correction_of(low0: float, high0: float, low1: float, high1: float) -> SamplingRate:
    """How the rates of a down-sampled log are undone.

    One rate a class is a shift of the log-odds by log(rate of clicks / rate of non-clicks) (He et al. 2014);
    rates that vary inside a class need weights 1/rate.
    """
    if low0 == high0 and low1 == high1:
        return SamplingRate(offset=math.log(low1 / low0))
    return SamplingRate(weight_by_rate=True)
