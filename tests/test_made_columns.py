"""Every column that the stages make is one that the check knows; and one's own under any other name stay as they are."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from helpers.logs import START, event, rows, settings, write
from sie_spark.features import encode
from sie_spark.impressions import impressions
from sie_spark.ingest import ingest
from sie_spark.platform.config import Source, names
from sie_spark.platform.errors import SourceError
from sie_spark.sources.read import declared

# what later stages and inner steps call their columns, where none of them meets the events or impressions
OWN = (
    "split",
    "p",
    "pi",
    "arm",
    "offset",
    "first",
    "raw",
    "n",
    "stays",
    "keep",
    "group_id",
    "sample_id",
    "cat",
)
TYPES = {"click": "click", "Click_capital": "Click", "plus": "+"}


def log() -> list[dict[str, Any]]:
    kinds = ["shown", "click", "Click", "Click", "+"]
    made = [
        event(
            str(at), kind=kinds[at * at % 5], ts=START + 60 * at, step=None, item=f"i{at % 3}", price=at / 4
        )
        for at in range(60)
    ]
    return [*made, *made[:9]]  # some are sent twice


@pytest.mark.spark
def test_all_that_is_made_is_known_and_all_that_is_own_is_kept(make_context: Any, tmp_path: Path) -> None:
    records = log()
    given = settings(write(tmp_path / "log.json", *records))["dataset"]
    columns = {name: f"concat('{name} ', id)" for name in OWN}
    dataset = {
        **given,
        "columns": {**given["columns"], **columns, "weight": "price"},
        "impressions": {
            "event": "event_type = 'shown'",
            "context": [*OWN, "weight"],
            "click": "item_id = 'i0'",
            "list_relative": ["weight"],
        },
        "history": {"types": TYPES, "rates": ["item_id"], "recent_items": 2},
        "features": [
            {"column": "split", "kind": "category", "min_count": 1},
            {"column": "weight", "kind": "number", "scale": "none"},
            {"column": "hist_Click_capital", "kind": "number", "scale": "none"},
            {"column": "recent_items", "name": "items", "kind": "sequence"},
        ],
    }
    ctx = make_context({"dataset": dataset})
    assert ingest.run(ctx).rows.as_dict() == {"read": 69, "kept": 60, "quarantined": 0, "duplicate": 9}
    impressions.run(ctx)
    made = dict(names.made(ctx.config.dataset))
    table = ctx.catalog.read("impressions")
    assert set(table.columns) == {*made, *OWN, "weight"}
    of_record = {
        *names.ADDED,
        "event_id",
        "event_ts",
        "seq",
        "event_type",
        "user_id",
        "session_id",
        "item_id",
    }
    assert set(ctx.catalog.read("events").columns) <= {*of_record, *dataset["columns"]}

    shown = {row["id"]: row for row in records if row["kind"] == "shown"}
    found = {row["split"].removeprefix("split "): row for row in rows(table)}
    assert set(found) == set(shown)
    for key, row in found.items():
        assert all(row[name] == f"{name} {key}" for name in OWN) and row["weight"] == shown[key]["price"]
        before = [one for one in records[:60] if one["ts"] < shown[key]["ts"]]
        acted = Counter(one["kind"] for one in before if one["item"] == row["item_id"])
        counted = {name: row[f"hist_{name}"] for name in TYPES}
        assert counted == {name: acted[kind] for name, kind in TYPES.items()}
    assert len({tuple(row[f"hist_{name}"] for name in TYPES) for row in found.values()}) > 3

    encode.run(ctx)
    encoded = ctx.catalog.read("samples")
    assert {"items", "split"} < set(encoded.columns) <= {*names.SAMPLE, "items"}
    vocabulary = {tuple(row["cat"]) for row in rows(encoded.where("split = 'train'"))}
    assert len(vocabulary) == encoded.where("split = 'train'").count()  # the own column split, of many values
    assert sorted(row["dense"][0] for row in rows(encoded)) == sorted(row["price"] for row in shown.values())


@pytest.mark.spark
def test_source_columns_that_are_one_name_to_spark(spark: Any) -> None:
    with pytest.raises(SourceError, match="source.columns: 'price' and 'Price' are one name"):
        declared(Source(columns="t STRING, price DOUBLE, Price DOUBLE"))
