"""Draws by hash: the same in numpy and Spark, uniform, independent between purposes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sie_spark.platform.draws import uniform

IDS = np.concatenate([np.array([0, 1, -1, 2**63 - 1, -(2**63)]), np.arange(200_000) * 7919])


def test_uniform_in_unit_interval() -> None:
    draws = uniform(IDS, seed=7, purpose="keep")
    assert draws.min() >= 0 and draws.max() < 1
    # 20 equal bins: chi-square with 19 degrees of freedom stays below 50 but once in 10,000 seeds
    counts = np.histogram(draws, bins=20, range=(0, 1))[0]
    expected = len(IDS) / 20
    assert ((counts - expected) ** 2 / expected).sum() < 50


def test_purposes_and_seeds_are_independent() -> None:
    keep, pilot, other = (
        uniform(IDS, seed=seed, purpose=purpose) for seed, purpose in ((7, "keep"), (7, "pilot"), (8, "keep"))
    )
    for second in (pilot, other):
        assert abs(np.corrcoef(keep, second)[0, 1]) < 4 / np.sqrt(len(IDS))


@pytest.mark.spark
def test_column_equals_numpy_bit_for_bit(spark: Any) -> None:
    from pyspark.sql import functions as F

    from sie_spark.platform.draws import uniform_column

    ids = IDS[:5000]
    frame = spark.createDataFrame([(int(i),) for i in ids], "id bigint")
    table = frame.select("id", uniform_column(F.col("id"), seed=7, purpose="keep").alias("u")).toArrow()
    found = dict(zip(table["id"].to_pylist(), table["u"].to_pylist(), strict=True))
    expected = uniform(ids, seed=7, purpose="keep")
    assert all(found[int(i)] == u for i, u in zip(ids, expected, strict=True))
