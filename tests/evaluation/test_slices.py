"""Slices by position: a row that has none is not one far down the list."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from sie_spark.evaluation.counts import slices
from sie_spark.report.page import _slices

PLACES = [None, None, None, 0, 1, 1, 9, 20, 21, 300, -1]


@pytest.mark.spark
def test_rows_without_a_position_are_in_no_slice_by_position(spark: Any) -> None:
    rows = [
        ("full", "2024-03-01", place, float(label), 1.0, 0.2, label, float(label))
        for place in PLACES
        for label in (0, 1, 1)
    ]
    schema = "arm string, event_date string, position int, label double, value double, p double, bin int, logit double"
    found = slices(spark.createDataFrame(rows, schema), [])
    by_hand = Counter(min(place, 21) for place in PLACES if place is not None and place >= 0)
    positions = {int(entry["slice"]): entry for entry in found if entry["kind"] == "position"}
    assert {place: entry["rows"] for place, entry in positions.items()} == {
        place: 3 * count for place, count in by_hand.items()
    }
    assert all(entry["clicks"] == 2 * by_hand[place] for place, entry in positions.items())
    assert [entry["rows"] for entry in found if entry["kind"] == "day"] == [3 * len(PLACES)]
    names = [
        (row["name"], row["rows"]) for row in _slices(found, ["full"]) if row["name"].startswith("position")
    ]
    assert names == [(f"position {p}", f"{3 * by_hand[p]}") for p in (0, 1, 9, 20)] + [
        ("position 21 and below", "6")
    ]
