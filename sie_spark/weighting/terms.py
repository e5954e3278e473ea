"""The words a policy is written in, once, for numpy arrays and for Spark columns alike.

A formula over :class:`Row` with the functions of :class:`Ops` runs in a unit test on arrays and in the job as a
column expression, so that ``weigh`` is a filter with a projection and the tested formula is the one that runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Values = Any  # a float64 array [N] or a Spark Column; both carry Python's arithmetic


@dataclass(frozen=True)
class Ops:
    """The few functions beside arithmetic and comparison."""

    minimum: Callable[[Values, float], Values]
    maximum: Callable[[Values, float], Values]
    exp: Callable[[Values], Values]
    log: Callable[[Values], Values]
    where: Callable[[Values, Values, Values], Values]
    constant: Callable[[Values, float], Values]  # a value like the first argument


@dataclass(frozen=True)
class Row:
    """What a policy may look at; what it does not declare to read may be None.

    Parameters
    ----------
    label:
        0 or 1; a soft label above 0 counts as positive.
    p:
        the pilot's probability.
    score:
        the score that the arm names; None where it names none.
    least:
        the inclusion probability that the row's rarest id asks for, see ``weighting.id_floor``; None for no such
        floor.
    """

    label: Values
    p: Values = None
    score: Values = None
    least: Values = None

    def where(self, mask: np.ndarray) -> Row:
        """Some of the rows, of arrays."""
        return Row(**{part: None if values is None else values[mask] for part, values in vars(self).items()})


@dataclass(frozen=True)
class Decision:
    """A row is kept iff its draw lies below ``pi``; kept rows train with ``offset`` and ``weight``."""

    pi: Values
    offset: Values
    weight: Values


def surprise(row: Row, ops: Any) -> Values:
    """``|y - p|``: how far the pilot is from the label, without a gradient (EL2N, Paul et al. 2021)."""
    return ops.where(row.label > 0, 1.0 - row.p, row.p)


def importance(row: Row, ops: Any) -> Values:
    """The score that the arm names, or ``|y - p|`` where it names none."""
    return surprise(row, ops) if row.score is None else row.score


def bounded(pi: Values, floor: float, row: Row, ops: Any) -> Values:
    """An inclusion probability between the floors (the policy's and the row's own) and 1."""
    pi = ops.maximum(pi, floor)
    if row.least is not None:
        pi = ops.maximum(pi, row.least)
    return ops.minimum(pi, 1.0)


NUMPY = Ops(
    minimum=np.minimum,
    maximum=np.maximum,
    exp=np.exp,
    log=np.log,
    where=np.where,
    constant=lambda like, value: np.full_like(like, value, dtype=float),
)


def _spark() -> Ops:
    from pyspark.sql import functions as F

    def choose(condition: Values, yes: Values, no: Values) -> Values:
        return F.when(condition, yes).otherwise(no)

    return Ops(
        minimum=lambda a, b: F.least(a, F.lit(b)),
        maximum=lambda a, b: F.greatest(a, F.lit(b)),
        exp=F.exp,
        log=F.log,
        where=choose,
        constant=lambda _, value: F.lit(float(value)),
    )


class _LazySpark:
    """Spark's functions, imported when a policy first runs on columns."""

    def __getattr__(self, name: str) -> Any:
        return getattr(_spark(), name)


SPARK: Any = _LazySpark()
