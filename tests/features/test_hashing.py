"""Hashes and texts that Spark and Python must agree on."""

import math
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from sie_spark.features.hashing import hash_id, value_text, value_text_column, xxhash64
from sie_spark.features.numbers import LEVELS, Pieces, log1p
from sie_spark.features.text import ngrams


@pytest.mark.parametrize(
    ("data", "seed", "expected"),
    [  # test vectors of the xxHash specification
        (b"", 0, 0xEF46DB3751D8E999),
        (b"", 2654435761, 0xAC75FDA2929B17EF),
        (b"abc", 0, 0x44BC2CF5AD770999),
    ],
)
def test_published_vectors(data: bytes, seed: int, expected: int) -> None:
    assert xxhash64(data, seed) & (2**64 - 1) == expected


@given(st.text(), st.integers(2, 1000))
def test_hash_ids_stay_in_range(text: str, size: int) -> None:
    assert 1 <= hash_id(text, size) <= size - 1


def test_value_text() -> None:
    assert [value_text(v) for v in (None, "a", 5, 5.0, True, float("nan"), Decimal("1.50"), -0.0)] == [
        *(None, "a", "5", "5", "true", None, "1500000e-6", "0")
    ]
    large = 2**64 - 1
    decimals = [
        Decimal(large),
        Decimal(f"{large}.00"),
        Decimal("1E+3"),
        Decimal("-0.0"),
        Decimal("inf"),
        np.int64(-5),
    ]
    assert [value_text(v) for v in decimals] == [str(large), str(large), "1000", "0", None, "-5"]


@given(st.floats(0, 3e38))
def test_log1p_is_the_logarithm(x: float) -> None:
    assert math.isclose(log1p(x), math.log1p(x), rel_tol=4e-16, abs_tol=5e-324)


def test_pieces_are_the_distribution_function() -> None:
    values = np.random.default_rng(1).exponential(size=20_000)
    pieces = Pieces.of([float(v) for v in np.quantile(values, LEVELS)])
    for x in np.random.default_rng(2).choice(values, 200):
        assert abs(pieces(float(x)) - (values <= x).mean()) < 1 / 64
    assert pieces(-1.0) == 0.0
    assert pieces(1e9) == 1.0


def test_ngrams_by_hand() -> None:
    assert ngrams("Hôtel - ÉTÉ, ПРИВЕТ", 1, 9) == ["hôtel", "été", "привет"]
    assert ngrams("a b c", 3, 9) == ["a", "b", "c", "a b", "b c", "a b c"]
    assert ngrams("a b c", 2, 4) == ["a", "b", "c", "a b"]
    assert ngrams(None, 2, 4) == [] == ngrams(" ,.", 2, 4)


@pytest.mark.spark
@settings(max_examples=6, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(data=st.data())
def test_spark_agrees(spark, data) -> None:  # type: ignore[no-untyped-def]
    from pyspark.sql import functions as F

    texts = data.draw(
        st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=70), min_size=1, max_size=40)
    )
    floats = data.draw(st.lists(st.floats(), min_size=len(texts), max_size=len(texts)))
    frame = spark.createDataFrame(list(zip(texts, floats, strict=True)), "t string, x double")
    found = frame.select(
        F.xxhash64("t"),
        value_text_column(F.col("x"), "double"),
        F.when((F.col("x") >= 0) & (F.col("x") < 3e38), F.log1p("x")),
    ).collect()
    for text, x, (hashed, written, log) in zip(texts, floats, found, strict=True):
        assert hashed == xxhash64(text.encode())
        assert written == value_text(x)
        assert log is None or log.hex() == log1p(x).hex()


@pytest.mark.spark
def test_log1p_has_the_bits_of_spark(spark) -> None:  # type: ignore[no-untyped-def]
    draw = np.random.default_rng(3)
    values = np.concatenate(
        [10.0 ** draw.uniform(-20, 38, 20_000), draw.uniform(0, 2, 20_000), np.arange(2000.0)]
    )
    import pyarrow as pa
    from pyspark.sql import functions as F

    frame = spark.createDataFrame(pa.table({"x": values})).select("x", F.log1p("x").alias("y")).toArrow()
    ours = np.array([log1p(x) for x in frame["x"].to_pylist()])
    assert (ours.view(np.int64) == np.asarray(frame["y"]).view(np.int64)).all()
