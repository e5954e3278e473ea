"""Numbers: log or quantile transform, standard scaling, missing indicators, equal in Spark and in Python.

Spark's ``log1p`` is Java's StrictMath, which is fdlibm; C's ``log1p`` differs from it in the last bit on some
inputs, so the row encoder carries fdlibm's own steps.
"""

from __future__ import annotations

import bisect
import math
import struct
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from sie_spark.features.hashing import as_float32

if TYPE_CHECKING:
    from pyspark.sql import Column

FLOAT_MAX = 3.4028234663852886e38  # beyond it a float32 would be infinite, so the value counts as missing
LIMIT = 10.0  # standard deviations at which a standardised value is cut
LEVELS = tuple(level / 64 for level in range(65))  # quantile levels whose values are frozen

_LN2_HI, _LN2_LO = 6.93147180369123816490e-01, 1.90821492927058770002e-10
_LP = (
    6.666666666666735130e-01,
    3.999999999940941908e-01,
    2.857142874366239149e-01,
    2.222219843214978396e-01,
    1.818357216161805012e-01,
    1.531383769920937332e-01,
    1.479819860511658591e-01,
)


def _high_word(value: float) -> int:
    return int(struct.unpack("<Q", struct.pack("<d", value))[0] >> 32)


def _with_high_word(value: float, high: int) -> float:
    low = struct.unpack("<Q", struct.pack("<d", value))[0] & 0xFFFFFFFF
    return float(struct.unpack("<d", struct.pack("<Q", (high << 32) | low))[0])


def log1p(x: float) -> float:
    """log(1 + x) for finite x >= 0, step by step as fdlibm (Sun Microsystems 1993, s_log1p.c)."""
    if x == 0.0:
        return x  # keeps the sign of -0.0
    high = _high_word(x)
    if high < 0x3E200000:  # x < 2**-29
        return x if high < 0x3C900000 else x - x * x * 0.5
    k, f, c, normal = 0, x, 0.0, 1
    if high >= 0x3FDA827A:  # x >= sqrt(2) - 1
        u = 1.0 + x if high < 0x43400000 else x
        normal = _high_word(u)
        k = (normal >> 20) - 1023
        if high < 0x43400000:
            c = (1.0 - (u - x) if k > 0 else x - (u - 1.0)) / u
        normal &= 0x000FFFFF
        if normal < 0x6A09E:
            u = _with_high_word(u, normal | 0x3FF00000)
        else:
            k += 1
            u = _with_high_word(u, normal | 0x3FE00000)
            normal = (0x00100000 - normal) >> 2
        f = u - 1.0
    half = 0.5 * f * f
    if normal == 0:  # |f| < 2**-20
        if f == 0.0:
            return k * _LN2_HI + (c + k * _LN2_LO) if k else 0.0
        rest = half * (1.0 - 0.66666666666666666 * f)
        return f - rest if k == 0 else k * _LN2_HI - ((rest - (k * _LN2_LO + c)) - f)
    s = f / (2.0 + f)
    z = s * s
    p1, p2, p3, p4, p5, p6, p7 = _LP
    rest = z * (p1 + z * (p2 + z * (p3 + z * (p4 + z * (p5 + z * (p6 + z * p7))))))
    if k == 0:
        return f - (half - s * (half + rest))
    return k * _LN2_HI - ((half - (s * (half + rest) + (k * _LN2_LO + c))) - f)


@dataclass(frozen=True)
class Pieces:
    """A frozen, piecewise linear distribution function: value -> mid-rank in [0, 1]."""

    edges: tuple[float, ...]
    levels: tuple[float, ...]

    @classmethod
    def of(cls, quantiles: list[float]) -> Pieces:
        """From the values at :data:`LEVELS`; equal values share the middle of their levels.

        >>> Pieces.of([0.0] * 33 + [1.0] * 32).levels
        (0.25, 0.7578125)
        """
        levels: dict[float, list[float]] = {}
        for value, level in zip(quantiles, LEVELS, strict=True):
            levels.setdefault(value, []).append(level)
        edges = sorted(levels)
        return cls(tuple(edges), tuple((levels[edge][0] + levels[edge][-1]) / 2 for edge in edges))

    @cached_property
    def slopes(self) -> list[float]:
        """Rise over run of each piece between two edges."""
        pairs = zip(self.edges, self.edges[1:], self.levels, self.levels[1:], strict=False)
        slopes = [(up - low) / (right - left) for left, right, low, up in pairs]
        return [slope if math.isfinite(slope) else 0.0 for slope in slopes]

    def __call__(self, x: float) -> float:
        """The rank of one value."""
        at = bisect.bisect_right(self.edges, x) - 1
        if at < 0:
            return 0.0
        if at == len(self.edges) - 1:
            return self.levels[-1] if x == self.edges[-1] else 1.0
        return self.levels[at] + (x - self.edges[at]) * self.slopes[at]

    def column(self, x: Column) -> Column:
        """The same in Spark: a balanced tree of comparisons; null stays null."""
        from pyspark.sql import functions as F

        def tree(
            low: int, high: int
        ) -> Column:  # x lies in one of the gaps low .. high; gap i ends at edge i
            if low == high:
                return leaf(low)
            middle = (low + high) // 2
            return F.when(x < F.lit(self.edges[middle]), tree(low, middle)).otherwise(tree(middle + 1, high))

        def leaf(gap: int) -> Column:
            if gap == 0:
                return F.lit(0.0)
            at = gap - 1
            if gap == len(self.edges):
                return F.when(x == F.lit(self.edges[-1]), F.lit(self.levels[-1])).otherwise(F.lit(1.0))
            return F.lit(self.levels[at]) + (x - F.lit(self.edges[at])) * F.lit(self.slopes[at])

        return F.when(x.isNotNull(), tree(0, len(self.edges)))


@dataclass(frozen=True)
class Number:
    """A fitted number: one entry of ``dense``, and a second one where training rows lacked the value."""

    name: str
    expression: str
    transform: str = "none"
    mean: float = 0.0
    scale: float = 1.0
    limited: bool = True  # cut at LIMIT standard deviations
    indicator: bool = False
    pieces: Pieces | None = field(default=None)
    kind: str = "number"
    single: bool = False  # of a float column, which holds a row's 0.3 to 24 bits

    @property
    def outputs(self) -> list[str]:
        """Names of its entries of ``dense``."""
        return [self.name, f"{self.name}_missing"] if self.indicator else [self.name]

    def source(self) -> Column:
        """The raw value as a double, null where it is missing (null, NaN, infinite in float32)."""
        from pyspark.sql import functions as F

        return finite(F.expr(self.expression))

    def transformed(self, x: Column) -> Column:
        """The value after log or quantile, before scaling."""
        from pyspark.sql import functions as F

        if self.transform == "log":
            return F.when(x < 0, -F.log1p(-x)).otherwise(F.log1p(x))
        return self.pieces.column(x) if self.pieces is not None else x

    def columns(self, x: Column) -> list[Column]:
        """Entries of ``dense`` (float) from the raw value."""
        from pyspark.sql import functions as F

        scaled = (self.transformed(x) - F.lit(self.mean)) / F.lit(self.scale)
        if self.limited:
            scaled = F.least(F.greatest(scaled, F.lit(-LIMIT)), F.lit(LIMIT))
        value = F.when(x.isNull(), F.lit(0.0)).otherwise(scaled).cast("float")
        return [value, x.isNull().cast("float")] if self.indicator else [value]

    def row(self, value: Any) -> list[float]:
        """Entries of ``dense`` of one row, as float32 values; TypeError for a text."""
        x = self._number(value)
        if x is None:
            return [0.0, 1.0] if self.indicator else [0.0]
        if self.transform == "log":
            x = -log1p(-x) if x < 0 else log1p(x)
        elif self.pieces is not None:
            x = self.pieces(x)
        x = (x - self.mean) / self.scale
        if self.limited:
            x = min(max(x, -LIMIT), LIMIT)
        encoded = float(np.float32(x))
        return [encoded, 0.0] if self.indicator else [encoded]

    def _number(self, value: Any) -> float | None:
        if value is None:
            return None
        if isinstance(value, str):  # float() would take one
            raise TypeError("no number")
        x = as_float32(float(value)) if self.single else float(value)
        return x if abs(x) <= FLOAT_MAX else None  # NaN compares false


def finite(value: Column) -> Column:
    """As a double, null where null, NaN or infinite in float32."""
    from pyspark.sql import functions as F

    number = value.cast("double")
    return F.when(~F.isnan(number) & (F.abs(number) <= FLOAT_MAX), number)
