"""Pre-computed image, text and audio vectors as model inputs, reduced to principal components where asked.

The projection is Spark's native ``vector_inner_product`` (float32, no Python, no lambda); its order of
additions is repeated in numpy, so that a row encoded without Spark has the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pyspark.sql import Column

BLOCK = 8  # Spark adds eight products, left to right, before it adds them to the running sum


def inner_product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Inner products of one float32 vector [n] with the rows of [k, n], added in Spark's order.

    Returns
    -------
    float32 [k].
    """
    total = np.zeros(right.shape[0], dtype=np.float32)
    whole = left.shape[0] // BLOCK * BLOCK
    with np.errstate(all="ignore"):
        for at in range(0, whole, BLOCK):
            block = left[at] * right[:, at]
            for offset in range(1, BLOCK):
                block = block + left[at + offset] * right[:, at + offset]
            total = total + block
        for at in range(whole, left.shape[0]):
            total = total + left[at] * right[:, at]
    return total


@dataclass(frozen=True)
class Vector:
    """A fitted vector: zeros where the value is missing, has another length or holds a value that is not finite.

    ``loadings`` [k][size] and ``centre`` [k] (float32) are empty where the vector is passed on as it is. Zeros are
    also what an average vector becomes, so an entry of ``dense`` tells them apart where training rows lacked it.
    """

    name: str
    expression: str
    size: int
    loadings: tuple[tuple[float, ...], ...] = ()
    centre: tuple[float, ...] = ()
    explained: float | None = None  # share of the variance that the components keep
    kind: str = "vector"
    indicator: bool = False

    @property
    def outputs(self) -> list[str]:
        """Names of its entries of ``dense``."""
        return [f"{self.name}_missing"] if self.indicator else []

    @property
    def width(self) -> int:
        """Length of the encoded array."""
        return len(self.loadings) or self.size

    def source(self) -> Column:
        """The raw value as array<float>, null where it cannot be used."""
        from pyspark.sql import functions as F

        return usable(F.expr(self.expression), self.size)

    def columns(self, x: Column) -> list[Column]:
        """Entries of ``dense`` (float) from the raw value."""
        return [x.isNull().cast("float")] if self.indicator else []

    def column(self, x: Column) -> Column:
        """array<float> of :attr:`width` values, never null."""
        from pyspark.sql import functions as F

        if not self.loadings:
            return F.coalesce(x, floats([0.0] * self.size))
        parts = [
            F.call_function("vector_inner_product", x, floats(list(weights))) - F.lit(shift).cast("float")
            for weights, shift in zip(self.loadings, self.centre, strict=True)
        ]
        finite = [
            F.when(F.isnan(part) | (F.abs(part) == float("inf")), F.lit(0.0)).otherwise(part)
            for part in parts
        ]
        return F.array(*[F.coalesce(part.cast("float"), F.lit(0.0).cast("float")) for part in finite])

    @cached_property
    def _matrix(self) -> tuple[np.ndarray, np.ndarray]:
        return np.asarray(self.loadings, dtype=np.float32), np.asarray(self.centre, dtype=np.float32)

    def row(self, value: Any) -> tuple[list[float], list[float]]:
        """The encoded array of one row, and its entries of ``dense``, as float32 values."""
        vector = self._usable(value)
        dense = [float(vector is None)] if self.indicator else []
        if vector is None:
            return [0.0] * self.width, dense
        if not self.loadings:
            return [float(part) for part in vector], dense
        loadings, centre = self._matrix
        with np.errstate(all="ignore"):
            encoded = inner_product(vector, loadings) - centre
        return [float(part) if np.isfinite(part) else 0.0 for part in encoded], dense

    def _usable(self, value: Any) -> np.ndarray | None:
        """:func:`usable` for one row."""
        if value is None or len(value) != self.size or any(part is None for part in value):
            return None
        with np.errstate(over="ignore"):
            vector = np.asarray(value, dtype=np.float64).astype(np.float32)
        return vector if np.isfinite(vector).all() else None


def floats(values: list[float]) -> Column:
    """A literal array<float>; one string constant instead of a node per value keeps plans small."""
    from pyspark.sql import functions as F

    text = ",".join(str(np.float32(value)) for value in values)
    return F.split(F.lit(text), ",").cast("array<float>")


def usable(value: Column, size: int) -> Column:
    """array<float> of the right length whose values are all finite, else null."""
    from pyspark.sql import functions as F

    vector = value.cast("array<double>").cast("array<float>")  # rounds whole numbers as a row does
    # 0 * x is NaN for an infinite or undefined x, and the product is null where an element is null
    check = F.call_function("vector_inner_product", vector, floats([0.0] * size))
    return F.when(F.when(F.size(vector) == size, check) == 0.0, vector)


def principal_components(sample: np.ndarray, components: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Loadings [k, size], centre [k] (float32) and the share of variance kept, from a sample [rows, size].

    Scaled so that the first component has unit variance; each component's largest loading is positive, so
    that the sign does not depend on the solver.
    """
    mean = sample.mean(axis=0)
    _, singular, axes = np.linalg.svd(sample - mean, full_matrices=False)
    kept = min(components, axes.shape[0])
    variance = singular**2
    loadings = axes[:kept]
    signs = np.sign(loadings[np.arange(kept), np.abs(loadings).argmax(axis=1)])
    deviation = float(np.sqrt(variance[0] / max(len(sample) - 1, 1))) or 1.0
    loadings = (loadings * signs[:, None] / deviation).astype(np.float32)
    centre = (loadings.astype(np.float64) @ mean).astype(np.float32)
    return loadings, centre, float(variance[:kept].sum() / max(variance.sum(), 1e-300))
