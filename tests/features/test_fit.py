"""What a fit makes of numbers far from zero and of vectors that no row can use."""

import random
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sie_spark.features.encoder import Encoder
from sie_spark.features.fit import FAR, Moments, Training, _standard, fit
from sie_spark.features.resolve import resolve
from sie_spark.platform.config import Feature
from sie_spark.platform.errors import DataError
from sie_spark.platform.root import Root

COUNT = 300
SCHEMA = """impression_id string, at double, latitude double, constant double, near decimal(20,0),
    log double, zero double, large bigint, spread double, ints array<bigint>, decimals array<decimal(19,18)>,
    short array<float>, hollow array<double>, nothing array<float>"""


def table() -> list[tuple[Any, ...]]:
    draw = random.Random(3)
    return [
        (
            f"i{at}",
            1709251234 + draw.random() * 30,
            48.1 + draw.gauss(0, 1e-3),
            1234567.1,
            Decimal(2**64 - 1 - draw.randrange(4)),
            1e9 + draw.random(),
            -0.0 if at % 2 else 0.0,
            2**60 + 2**20 * draw.randrange(10),
            draw.gauss(1e-7, 1.0),
            [2**60 + 2**36 + 1, at],
            [Decimal("1.000000059604644776"), Decimal(at) / 1000],
            [1.0] * (5 + at % 2),
            [None, 1.0],
            None,
        )
        for at in range(COUNT)
    ]


@pytest.mark.spark
def test_numbers_far_from_zero_and_vectors_of_whole_numbers(spark: Any, tmp_path: Any) -> None:
    data = table()
    numbers = ["at", "latitude", "constant", "near", "log", "zero", "large", "spread"]
    features = [
        *[Feature(column=n, kind="number", transform="log" if n == "log" else "none") for n in numbers],
        *[Feature(column=name, kind="vector", size=2) for name in ("ints", "decimals")],
    ]

    def fitted(rows: list[tuple[Any, ...]], slices: int) -> tuple[Encoder, Any]:
        frame = spark.createDataFrame(rows, SCHEMA).repartition(slices)
        return fit(Training(frame, COUNT, Root(tmp_path)), resolve(features, frame)), frame

    encoder, frame = fitted(data, 2)
    assert fitted(data[::-1], 3)[0] == encoder  # another order of summation
    encoded = {row["impression_id"]: row for row in encoder.transform(frame, ["impression_id"]).collect()}
    for row in data:
        ours = encoder.transform_row(dict(zip(frame.columns, row, strict=True)))
        theirs = encoded[row[0]]
        for name, values in ours.items():
            assert np.asarray(values, np.float64).tobytes() == np.asarray(theirs[name], np.float64).tobytes()
    dense = np.array([encoded[row[0]]["dense"] for row in data])
    for name, mean, deviation in zip(numbers, dense.mean(axis=0), dense.std(axis=0), strict=True):
        assert abs(mean) < 1e-4, name
        assert deviation == pytest.approx(0 if name in ("constant", "near", "zero") else 1, abs=1e-4), name


@pytest.mark.spark
def test_moments_are_those_of_numpy_on_both_sides_of_far(spark: Any) -> None:
    draw = np.random.default_rng(5)
    means = {"near": 0.1, "edge": FAR * 0.99, "beyond": FAR * 1.01, "far": 1e9}
    values = {name: mean + draw.standard_normal(20_000) for name, mean in means.items()}
    frame = spark.createDataFrame(pd.DataFrame(values))
    features = [Feature(column=name, kind="number") for name in means]
    encoder = fit(Training(frame, 20_000, Root("unused")), resolve(features, frame))
    for feature in encoder.features:
        exact = values[feature.name]
        assert feature.mean == pytest.approx(exact.mean(), abs=6e-6)  # kept to six digits
        assert feature.scale == pytest.approx(exact.std(), rel=6e-6)


@pytest.mark.spark
def test_vectors_that_training_rows_lacked_have_an_indicator(spark: Any, tmp_path: Any) -> None:
    rows = [(f"i{at}", [1.0, float(at)], [1.0, None if at == 7 else float(at)]) for at in range(9)]
    frame = spark.createDataFrame(rows, "impression_id string, whole array<double>, holed array<double>")
    wanted = [
        ("whole", {}),
        ("holed", {}),
        ("holed", {"components": 1}),
        ("holed", {"missing_indicator": False}),
    ]
    features = [
        Feature(column=column, name=f"v{at}", kind="vector", size=2, **more)  # type: ignore[arg-type]
        for at, (column, more) in enumerate(wanted)
    ]
    encoder = fit(Training(frame, len(rows), Root(tmp_path)), resolve(features, frame))
    assert encoder.inputs.numbers == ("v1_missing", "v2_missing")
    found = {
        row["impression_id"]: row["dense"] for row in encoder.transform(frame, ["impression_id"]).collect()
    }
    assert [found[f"i{at}"] for at in (6, 7, 8)] == [[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]]


@pytest.mark.spark
def test_a_vector_that_no_row_can_use_is_refused(spark: Any, tmp_path: Any) -> None:
    frame = spark.createDataFrame(table(), SCHEMA)

    def fitted(name: str, size: int, components: int | None = None) -> None:
        feature = Feature(column=name, kind="vector", size=size, components=components)
        fit(Training(frame, COUNT, Root(tmp_path)), resolve([feature], frame))

    with pytest.raises(
        DataError, match="'short': no training row has 7 finite values; its arrays are 5 to 6"
    ):
        fitted("short", 7)
    with pytest.raises(
        DataError,
        match="'hollow': fewer than two .* 2 finite .* are 2 long; of those of 2, each holds a null",
    ):
        fitted("hollow", 2, components=1)
    with pytest.raises(DataError, match="'nothing'.*it is null in every row") as error:
        fitted("nothing", 4)
    assert "dataset.features" in error.value.remedy


def test_the_mean_is_rounded_to_the_spread() -> None:
    assert _standard(Moments(9, 0.0, 3.0, 1709251234.1234567, 8.66025403784)) == (1709251234.12346, 8.66025)
    assert _standard(Moments(9, 0.0, 3.0, -1e-9, 1.0)) == (0.0, 1.0)
    assert str(_standard(Moments(9, 0.0, 3.0, -1e-9, 1.0))[0]) == "0.0"
    assert _standard(Moments(9, 1234567.1, 1234567.1, 1234567.1000000003, 1e-10)) == (1234567.1, 1.0)
    assert _standard(Moments(9, 1.0, 2.0, 1.5, 0.0)) == (1.5, 1.0)  # a spread that underflows
    assert _standard(Moments(9, -3e38, 3e38, 1.5, 3e38)) == (0.0, 3e38)
