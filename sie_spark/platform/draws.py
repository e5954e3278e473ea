"""Repeatable random numbers from a row's id, the same in Spark and in numpy.

Sampling by a hash of (sample_id, seed, purpose) needs no shuffle, gives the same rows in every run and on
every layout of the files, and draws for different purposes (pilot, keep, solve) are independent.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from sie_spark.platform.config import Config

_P1, _P2, _P3, _P4, _P5 = (
    np.uint64(0x9E3779B185EBCA87),
    np.uint64(0xC2B2AE3D27D4EB4F),
    np.uint64(0x165667B19E3779F9),
    np.uint64(0x85EBCA77C2B2AE63),
    np.uint64(0x27D4EB2F165667C5),
)


def salt(seed: int, purpose: str) -> int:
    """A signed 64-bit number for (seed, purpose)."""
    return int.from_bytes(hashlib.sha256(f"{purpose}:{seed}".encode()).digest()[:8], "big", signed=True)


def uniform(sample_id: np.ndarray, *, seed: int, purpose: str) -> np.ndarray:
    """Uniform draws in [0, 1), float64 [N], of ids int64 [N]; equal to :func:`uniform_column` bit for bit."""
    with np.errstate(over="ignore"):
        first = _xxhash64_long(
            np.array([salt(seed, purpose)], dtype=np.int64), np.array([42], dtype=np.uint64)
        )
        mixed = _xxhash64_long(np.asarray(sample_id, dtype=np.int64), first)
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def uniform_column(sample_id: Column, *, seed: int, purpose: str) -> Column:
    """Uniform draws in [0, 1), double, as a column expression."""
    from pyspark.sql import functions as F

    return unit_interval(F.xxhash64(F.lit(salt(seed, purpose)).cast("bigint"), sample_id.cast("bigint")))


def unit_interval(hashed: Column) -> Column:
    """A hash (bigint, all 64 bits random) as a double in [0, 1), from its upper 53 bits."""
    from pyspark.sql import functions as F

    return F.shiftrightunsigned(hashed, 11).cast("double") * F.lit(2.0**-53)


@dataclass(frozen=True)
class Draw:
    """A uniform sample: rows whose draw (by sample_id, seed, purpose) lies below ``fraction``."""

    fraction: float
    seed: int
    purpose: str

    def keeps(self, sample_id: np.ndarray) -> np.ndarray:
        """Whether rows are in it, bool [N], of ids int64 [N]."""
        return uniform(sample_id, seed=self.seed, purpose=self.purpose) < self.fraction

    def column(self, sample_id: Column) -> Column:
        """The same as a column expression."""
        return uniform_column(sample_id, seed=self.seed, purpose=self.purpose) < self.fraction


def pilot_sample(config: Config) -> Draw:
    """The rows that the pilot is fitted on."""
    return Draw(config.pilot.fraction, config.training.seed, "pilot")


def at_most(frame: DataFrame, limit: int, *, seed: int, purpose: str) -> tuple[DataFrame, float]:
    """The rows themselves, or about ``limit`` of them by a draw where there are more; and the share that is kept."""
    from pyspark.sql import functions as F

    rows = frame.agg(F.count(F.lit(1))).first()
    total = int(rows[0]) if rows else 0
    if total <= limit:
        return frame, 1.0
    share = limit / total
    return frame.where(uniform_column(F.col("sample_id"), seed=seed, purpose=purpose) < share), share


def _xxhash64_long(value: np.ndarray, seed: np.ndarray) -> np.ndarray:
    mixed = (seed + _P5 + np.uint64(8)) ^ (_rotate(value.view(np.uint64) * _P2, 31) * _P1)
    mixed = _rotate(mixed, 27) * _P1 + _P4
    mixed = (mixed ^ (mixed >> np.uint64(33))) * _P2
    mixed = (mixed ^ (mixed >> np.uint64(29))) * _P3
    return mixed ^ (mixed >> np.uint64(32))


def _rotate(value: np.ndarray, bits: int) -> np.ndarray:
    return (value << np.uint64(bits)) | (value >> np.uint64(64 - bits))
