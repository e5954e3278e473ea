"""A row from JSON has decimal digits where the table has float32: both are encoded as the column's value."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.encoders import keep
from sie_spark.features.encoder import Encoder
from sie_spark.features.fit import Training, fit
from sie_spark.features.hashing import value_text
from sie_spark.features.numbers import Number
from sie_spark.features.resolve import resolve
from sie_spark.platform.config import Feature
from sie_spark.platform.root import Root

PRICES = [0.1, 0.3, 2.5, -7.7, 123456.79, 16777217.0, 3e38, 19.99, 19.99, 19.99, None]


@pytest.mark.spark
def test_float_columns_from_json(spark: Any, tmp_path: Path) -> None:
    data = [(f"i{at}", price, None if price is None else [price, 0.7]) for at, price in enumerate(PRICES)]
    table = spark.createDataFrame(data, "impression_id string, price float, prices array<float>")
    table = table.where("price is null or price < 1e38").unionAll(table.where("price >= 1e38"))
    of_price: dict[str, Any] = {"column": "price", "kind": "number"}
    features = [
        of_price,
        {**of_price, "name": "log", "transform": "log"},
        {**of_price, "name": "rank", "transform": "quantile", "scale": "none"},
        {"column": "price", "name": "exact", "kind": "category", "min_count": 1},
        {"column": "prices", "kind": "bag", "min_count": 1, "length": 2},
    ]
    chosen = resolve([Feature(**feature) for feature in features], table)
    encoder = Encoder.load(keep(fit(Training(table, len(PRICES), Root(tmp_path)), chosen), Root(tmp_path))[1])
    records = "to_json(struct(price, price as log, price as rank, price as exact, prices)) as record"
    written = {row[0]: row[1] for row in table.selectExpr("impression_id", records).collect()}
    for row in encoder.transform(table, keep=["impression_id"]).collect():
        ours = encoder.transform_row(json.loads(written[row["impression_id"]]))
        for name, values in ours.items():
            assert np.asarray(values).tobytes() == np.asarray(row[name]).tobytes(), (name, written)


def test_a_float_is_rounded_and_nothing_else() -> None:
    assert value_text(123456.79, "float") == "123456789063e-6" == value_text(np.float32(123456.79))
    assert value_text(123456.79, "double") == "123456790000e-6"
    assert value_text(16777217, "float") == "16777216" and value_text(1e300, "float") is None
    exact = Number("x", "x", limited=False)
    held = Number("x", "x", scale=float(np.float32(0.3)), limited=False, single=True)
    assert held.row(0.3) == [1.0] == held.row(np.float32(0.3)) and exact.row(3e38) == [
        float(np.float32(3e38))
    ]


def test_a_number_of_a_float_column_comes_back_from_its_artefact() -> None:
    rounded = Encoder((Number("x", "x", single=True),))
    assert Encoder.from_dict(json.loads(json.dumps(rounded.as_dict()))) == rounded
