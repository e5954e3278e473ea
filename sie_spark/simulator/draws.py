"""Random draws as Column expressions: a hash of (seed, purpose, keys), never a generator.

The same seed gives the same data on any number of partitions, and two purposes never share a draw.
"""

from __future__ import annotations

import math

from pyspark.sql import Column
from pyspark.sql import functions as F

from sie_spark.platform.draws import unit_interval


def uniform(seed: int, purpose: str, *keys: Column) -> Column:
    """Uniform on [0, 1), double; independent for different seeds, purposes and keys."""
    return unit_interval(F.xxhash64(F.lit(seed), F.lit(purpose), *keys))


def gauss(seed: int, purpose: str, *keys: Column) -> Column:
    """Standard normal, double (Box and Muller 1958)."""
    radius = F.sqrt(F.lit(-2.0) * F.log(F.lit(1.0) - uniform(seed, f"{purpose}/radius", *keys)))
    return radius * F.cos(F.lit(2.0 * math.pi) * uniform(seed, f"{purpose}/angle", *keys))


def exponential(seed: int, purpose: str, mean: float, *keys: Column) -> Column:
    """Exponential with this mean, double."""
    return F.lit(-mean) * F.log(F.lit(1.0) - uniform(seed, purpose, *keys))


def below(draw: Column, size: int) -> Column:
    """A whole number in ``0 .. size - 1`` (bigint) from a uniform draw."""
    return F.floor(draw * F.lit(float(size)))


def zipf(draw: Column, size: int, exponent: float, *, shift: float) -> Column:
    """A rank in ``0 .. size - 1`` (bigint) with P(rank) close to proportional to (rank + 1 + shift)^-exponent.

    The Zipf-Mandelbrot law by inversion of its continuous form, so that no table of ``size`` masses is
    needed; ``shift`` keeps the first few from taking everything. Example: size 3, exponent 1, shift 0 maps
    draws 0, .5, .99 to ranks 0, 1, 2 (1 * 4^u - 1 = 0, 1, 2.94).
    """
    low, high = 1.0 + shift, 1.0 + shift + size
    if abs(exponent - 1.0) < 1e-9:
        point = F.lit(low) * F.pow(F.lit(high / low), draw)
    else:
        power = 1.0 - exponent
        start, end = low**power, high**power
        point = F.pow(F.lit(start) + draw * F.lit(end - start), F.lit(1.0 / power))
    return F.least(F.greatest(F.floor(point - F.lit(low)), F.lit(0)), F.lit(size - 1))
