"""A line of libsvm, letter by letter."""

from __future__ import annotations

from typing import Any

import pytest

from sie_spark.export.columns import libsvm_line
from sie_spark.export.layout import Layout
from sie_spark.platform.inputs import InputSpec

NAN = float("nan")


def lines(spark: Any, spec: InputSpec, *rows: tuple[Any, ...]) -> list[str]:
    schema = "label float, cat array<int>, dense array<float>, tags array<int>, image array<float>"
    frame = spark.createDataFrame(list(rows), schema)
    return [row[0] for row in frame.select(libsvm_line(Layout.of(spec, []))).collect()]


@pytest.mark.spark
def test_indices_begin_at_one_ascend_and_end_at_the_same_place(spark: Any) -> None:
    spec = InputSpec(categories={"device": 3, "place": 2}, numbers=("price", "rank"), bags={"tags": (4, 3)})
    assert lines(
        spark,
        spec,
        (1.0, [0, 1], [0.0, -2.5], [3, 1, 0], []),
        (0.0, [2, 0], [1.5, NAN], [2, 2, 1], []),
        (0.25, [1, 1], [1e-5, 0.1], [0, 0, 0], []),
    ) == [
        "1 1:1 5:1 6:0.0 7:-2.5 9:1 11:1",
        "0 3:1 4:1 6:1.5 9:1 10:2 11:0",  # what is no number is left out, the last index never
        "0.25 2:1 5:1 6:1.0E-5 7:0.1 11:0",
    ]
    only = InputSpec(categories={"device": 3})
    rows = ((1.0, [0], [], [], []), (0.0, [2], [], [], []))
    assert lines(spark, only, *rows) == ["1 1:1 3:0", "0 3:1"]
    image = InputSpec(vectors={"image": 3})
    assert lines(spark, image, (1.0, [], [], [], [0.5, NAN, 2.0])) == ["1 1:0.5 3:2.0"]
