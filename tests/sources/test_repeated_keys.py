"""A key that comes twice in one JSON object, by Python's own parser: no value of the two is taken in silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.logs import rows, write
from sie_spark.ingest import ingest
from sie_spark.platform.errors import SourceError

pytestmark = pytest.mark.spark

DECLARED = (
    "id STRING, t STRING, price DOUBLE, tag STRING, geo STRUCT<x: INT, y: STRING>, l ARRAY<STRUCT<x: INT>>"
)
NESTED = ("geo", "l")
BODIES = [
    '"price": 1, "price": 2',
    '"price": null, "price": 2',
    '"price": 2, "price": null',
    '"price": 2, "tag": "a", "price": 2',  # no contradiction
    '"price": 2, "tag": "a", "price": 2, "tag": "b"',
    '"tag": "a", "ta": "b", "tagg": "c", "price": 1',
    '"tag": "a", "t\\u0061g": "b"',
    '"tag": "", "tag": null',
    '"other": 1, "other": 2, "price": 3',  # of a field that nobody declared
    '"geo": {"x": 1, "y": "a", "x": 2}',
    '"geo": {"x": null, "x": 2}, "price": 1',
    '"geo": {"x": 1, "y": "a"}, "l": [{"x": 1}, {"x": 2}]',
    '"geo": {"y": "{\\"x\\": 1, \\"x\\": 2}"}',  # a text, whatever it says
    '"l": [{"x": 1}, {"x": 1, "x": 3}]',
    '"l": [], "geo": null',
    '"geo": {"x": 1}, "geo": {"x": 2}',
    '"price": 1e3, "l": [{"x": 1}], "tag": "NaN"',
    '"geo": {"x": 5, "y": NaN}',
]


def by_hand(line: str, *, undeclared: bool) -> set[str]:
    """The declared fields whose value depends on which of two is taken."""
    found: set[str] = set()

    def twice(pairs: list[tuple[str, Any]]) -> bool:
        return len({name for name, _ in pairs}) < len(pairs)

    class Pairs(list):
        """An object as its pairs."""

    def repeats(value: Any) -> bool:
        if isinstance(value, Pairs):
            return twice(value) or any(repeats(inner) for _, inner in value)
        return isinstance(value, list) and any(map(repeats, value))

    top = json.loads(line, object_pairs_hook=Pairs)
    for name in {name for name, _ in top}:
        values = [json.dumps(value) for key, value in top if key == name]
        known = f"{name} " in DECLARED or undeclared
        if known and len(set(values)) > 1:
            found.add(name)
        if name in NESTED and any(repeats(value) for key, value in top if key == name):
            found.add(name)
    return found


@pytest.mark.parametrize("on_new_column", ["ignore", "add"])
def test_two_values_under_one_key_set_the_record_aside(
    make_context: Any, tmp_path: Path, on_new_column: str
) -> None:
    lines = [f'{{"id": "r{at}", "t": "2024-03-01T05:00:{at:02}", {body}}}' for at, body in enumerate(BODIES)]
    plain = [f'{{"id": "p{at}", "t": "2024-03-01T06:00:00", "price": {at}}}' for at in range(400)]
    dataset = {
        "name": "twice",
        "source": {
            "path": str(write(tmp_path / "log.json", *lines, *plain)),
            "format": "json",
            "columns": DECLARED,
            "on_new_column": on_new_column,
        },
        "event_time": {"expression": "t"},
        "columns": {"event_type": "'view'", "item_id": "id", "price": "price", "x": "geo.x", "xs": "l.x"},
    }
    ctx = make_context({"dataset": dataset})
    result = ingest.run(ctx)
    expected = {f"r{at}": by_hand(line, undeclared=on_new_column == "add") for at, line in enumerate(lines)}
    wrong = {name: keys for name, keys in expected.items() if keys}
    assert 5 < len(wrong) < len(lines) - 5
    aside = {json.loads(row["record"])["id"]: row["reasons"] for row in rows(ctx.catalog.read("quarantine"))}
    assert {name: set(reasons) for name, reasons in aside.items()} == {
        name: {"repeated_key", *(f"repeated_key:{key}" for key in keys)} for name, keys in wrong.items()
    }
    assert result.details["reasons"] == {"repeated_key": len(wrong)}
    assert any(f"{len(wrong)} records say a key twice" in said for said in result.cautions)
    kept = {row["item_id"]: row for row in rows(ctx.catalog.read("events"))}
    assert set(kept) == {f"r{at}" for at in range(len(lines))} - set(wrong) | {f"p{at}" for at in range(400)}
    for at, line in enumerate(lines):
        if f"r{at}" in kept:
            said = json.loads(line)
            assert kept[f"r{at}"]["price"] == said.get("price")
            assert kept[f"r{at}"]["x"] == (said.get("geo") or {}).get("x")


def test_a_log_whose_every_record_does_so_is_refused(make_context: Any, tmp_path: Path) -> None:
    lines = [f'{{"t": "2024-03-01T05:00:{at:02}", "id": "{at}", "id": "x"}}' for at in range(30)]
    source = {
        "path": str(write(tmp_path / "log.json", *lines)),
        "format": "json",
        "columns": "id STRING, t STRING",
    }
    dataset = {"name": "twice", "source": source, "event_time": {"expression": "t"}}
    with pytest.raises(
        SourceError,
        match="every one of 30 records cannot be read as the data set says: 'repeated_key' 30 times",
    ) as error:
        ingest.run(
            make_context({"dataset": {**dataset, "columns": {"event_type": "'view'", "item_id": "id"}}})
        )
    assert "key twice" in error.value.remedy
